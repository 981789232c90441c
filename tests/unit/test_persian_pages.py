"""The Persian pages read well: code keeps its order in lines from right to left, and one thing has one name."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.fa.md", *sorted((ROOT / "docs" / "fa").glob("*.md"))]
CATALOGS = sorted((ROOT / "src" / "chapar").rglob("*fa.toml"))

# Between backticks nothing isolates code from the line around it: a sign at its edge goes to the wrong end, and digits
# behind Persian letters fall apart at a hyphen. What has a letter at both ends is safe.
SAFE = re.compile(r"[A-Za-z](.*[A-Za-z0-9])?|[0-9.]+|[0-9]+[a-z]", re.DOTALL)

UNWANTED = {
    "پرونده": "فایل",
    "پروکسی": "پراکسی",
    "پیشکار": "پراکسی",
    "مشتری": "کارخواه",
    "فراخوان(?!ی| سیستم)": "درخواست‌کننده یا فرستنده",
    "(?<![آ-ی])راز": "رمز",
    "نهاده‌": "آرگومان",
    "دسته‌ای": "گروهی",
    "رد رویدادها": "دفتر ممیزی",
    "دگرگون": "تغییر",
    "آنها": "آن‌ها",
    "یک‌?راست": "مستقیم",
    "م‌ث": "میلی‌ثانیه",
    "پسورد|رمز عبور|کلمهٔ عبور": "گذرواژه",
    "فرامی‌خواند": "فرستندهٔ درخواست",
    "(?<!فراخوان )سیستم(?!‌عامل)": "سامانه",
    "(?<![آ-ی\u200c])قول(?![آ-ی])": "تضمین",
    "بکوشید": "تلاش کنید",
    "به سر آمده": "منقضی شده است",
    "ي|ك": "ی یا ک",
    "(?<![آ-ی])ن?می [آ-ی]": "نیم‌فاصله پس از «می»",
}


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page outside blocks of code."""
    is_code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_in_a_line_from_right_to_left_keeps_its_order(page: Path) -> None:
    torn = [(n, code) for n, line in prose(page) for code in re.findall("`([^`]+)`", line) if not SAFE.fullmatch(code)]
    assert torn == [], 'write <code dir="ltr">…</code>'


@pytest.mark.parametrize("page", [*PAGES, *CATALOGS], ids=lambda page: page.name)
def test_one_thing_has_one_name(page: Path) -> None:
    found = [
        (number, match[0], better)
        for number, line in enumerate(page.read_text().splitlines(), 1)
        for unwanted, better in UNWANTED.items()
        for match in re.finditer(unwanted, line)
    ]
    assert found == []
