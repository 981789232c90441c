"""What can be wrong with the URL of a broker, in words."""

from enum import Enum

from chapar.errors.root import Both


class UrlFault(Enum):
    """One way to write it wrong, each with its words, which never repeat a part of the URL."""

    EMPTY = Both(
        "it is empty. Unset it to use the built-in broker.",
        "خالی است. برای به کار بردن کارگزار توکار این متغیر را بردارید.",
    )
    NO_ITEM = Both(
        "there is no address before or behind one of its commas. Take that comma away.",
        "پیش یا پس از یکی از ویرگول‌ها نشانی‌ای نیست. آن ویرگول را بردارید.",
    )
    QUOTED = Both(
        "it is in quotation marks, which are for the shell only. Take them away.",
        "میان علامت نقل‌قول آمده است که تنها برای پوسته (shell) است. آن را بردارید.",
    )
    CONTROLS = Both("write it in UTF-8 and without control characters.", "آن را با UTF-8 و بدون نویسهٔ کنترلی بنویسید.")
    COMMA_IN_SECRET = Both(
        "what stands behind a comma must begin with mqtt:// or mqtts:// too. A comma in a secret is written %2C.",
        "آنچه پس از ویرگول می‌آید هم باید با mqtt:// یا mqtts:// آغاز شود. ویرگول در رمز به صورت %2C نوشته می‌شود.",
    )
    NO_SCHEME = Both(
        "it does not begin with mqtt:// or mqtts://. Write it as mqtt://host:1883 or mqtts://user:secret@host:8883.",
        "با mqtt:// یا mqtts:// آغاز نمی‌شود. آن را به شکل mqtt://host:1883 یا mqtts://user:secret@host:8883 بنویسید.",
    )
    ALIAS = Both("write {right}:// in place of {wrong}://.", "به جای {wrong}:// بنویسید {right}://.")
    WEBSOCKETS = Both(
        "Chapar does not use MQTT over WebSockets. Write the broker's own MQTT port: mqtt:// (usually 1883) or "
        "mqtts:// (usually 8883).",
        "چاپار از MQTT روی WebSocket استفاده نمی‌کند. درگاه MQTT خود کارگزار را بنویسید: mqtt:// (معمولاً 1883) یا "
        "mqtts:// (معمولاً 8883).",
    )
    WEB = Both(
        "that is the address of a web page. Write the broker's MQTT port: mqtt:// (usually 1883) or mqtts:// "
        "(usually 8883).",
        "این نشانی صفحهٔ وب است. درگاه MQTT کارگزار را بنویسید: mqtt:// (معمولاً 1883) یا mqtts:// (معمولاً 8883).",
    )
    OTHER_SCHEME = Both(
        "it must begin with mqtt:// or mqtts://, and begins with something else.",
        "باید با mqtt:// یا mqtts:// آغاز شود، ولی با چیز دیگری آغاز شده است.",
    )
    SEVERAL = Both(
        "there are several addresses in it that no comma separates. Put one between them.",
        "چند نشانی در آن است که با ویرگول جدا نشده‌اند. میان آن‌ها ویرگول بگذارید.",
    )
    SLASH_IN_SECRET = Both(
        "/ and ? and # in a user name or secret are written %2F, %3F and %23.",
        "نویسه‌های / و ? و # در نام کاربر یا رمز به صورت %2F و %3F و %23 نوشته می‌شوند.",
    )
    BEYOND = Both(
        "nothing may stand behind the port: no path, no topic and no option. Take it away.",
        "پس از درگاه چیزی نمی‌آید: نه مسیر، نه تاپیک و نه گزینه. آن را بردارید.",
    )
    BRACKET_IN_SECRET = Both(
        "[ and ] in a user name or secret are written %5B and %5D.",
        "نویسه‌های [ و ] در نام کاربر یا رمز به صورت %5B و %5D نوشته می‌شوند.",
    )
    PERCENT_IN_SECRET = Both(
        "a % in a user name or secret is written %25.", "نویسهٔ % در نام کاربر یا رمز به صورت %25 نوشته می‌شود."
    )
    ENCODING_IN_SECRET = Both(
        "what % encodes in a user name or secret must be UTF-8; a % itself is written %25.",
        "آنچه با % در نام کاربر یا رمز نوشته می‌شود باید UTF-8 باشد؛ خود % به صورت %25 نوشته می‌شود.",
    )
    CONTROL_IN_USER = Both(
        "the user name holds a control character, which MQTT forbids.",
        "در نام کاربر نویسهٔ کنترلی هست که MQTT آن را نمی‌پذیرد.",
    )
    LONG_FIELD = Both(
        "the user name or secret is longer than 65,535 bytes, the most that MQTT carries.",
        "نام کاربر یا رمز از ۶۵٬۵۳۵ بایت، بیشترین اندازه در MQTT، بلندتر است.",
    )
    NO_HOST = Both(
        "the host is missing: mqtt://host:1883 or mqtts://user:secret@host:8883.",
        "نام میزبان نیامده است: mqtt://host:1883 یا mqtts://user:secret@host:8883.",
    )
    BARE_IPV6 = Both(
        "an IPv6 address stands in square brackets: mqtt://[::1]:1883.",
        "نشانی IPv6 میان دو کروشه نوشته می‌شود: mqtt://[::1]:1883.",
    )
    NOT_IPV6 = Both(
        "what stands in square brackets is not an IPv6 address, like mqtt://[::1]:1883.",
        "آنچه میان دو کروشه آمده نشانی IPv6 نیست؛ نمونه: mqtt://[::1]:1883.",
    )
    COLONS = Both(
        "there are too many colons. User and secret end with @: mqtt://user:secret@host:1883.",
        "شمار دونقطه‌ها زیاد است. نام کاربر و رمز با @ پایان می‌یابند: mqtt://user:secret@host:1883.",
    )
    PORT = Both(
        "the port must be a number from 1 to 65535. Where a user and a secret stand there, @ and the host are missing.",
        "درگاه باید عددی از ۱ تا ۶۵۵۳۵ باشد. اگر آنجا نام کاربر و رمز نوشته‌اید، @ و نام میزبان جا افتاده است.",
    )
    SPACE = Both(
        "there is a space in the host or port. Take it away; several addresses are separated by commas.",
        "در نام میزبان یا درگاه فاصله هست. آن را بردارید؛ چند نشانی با ویرگول از هم جدا می‌شوند.",
    )
    BAD_HOST = Both(
        "the host is neither a name, like broker.example.org, nor an IP address.",
        "میزبان نه نام است (مانند broker.example.org) و نه نشانی IP.",
    )
