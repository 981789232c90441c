"""The classes of faults: how each is injected, and under which load."""
import asyncio, contextlib, random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from faults.load import Load, Mix
from faults.stage import Stage, open_stage
from faults.table import rows_of
from faults.verdict import Verdict, judge

Inject = Callable[[Stage, Load], Awaitable[None]]

@dataclass(slots=True)
class Run:
    name: str
    cycles: int
    verdict: Verdict

async def run(name, cycles, inject, mix=Mix(), progress=lambda d: None, same_clock=True, **kw):
    async with open_stage(**kw) as stage:
        async with Load(stage.ports, stage.ledger, mix) as load:
            for cycle in range(cycles):
                await load.answers(random.randrange(20,400))
                await inject(stage, load)
                progress(cycle)
            await load.answers(100)
        await stage.settled()
        for g in stage.gateways:
            await asyncio.to_thread(g.close)
        rows = rows_of(stage.database_url)
        await stage.heard({r.number for r in rows if r.status=='published'})
        return judge(stage.ledger, rows, stage.hearings.read().all, stalls=stage.stalls, same_clock=same_clock)

async def gateway_killed(stage, load):
    import time,sys
    t=time.time()
    await stage.kill(stage.gateway)
    t1=time.time()
    await stage.start(stage.gateway)
    print('kill',t1-t,'start',time.time()-t1,file=sys.stderr)

async def gateway_paused(stage, load):
    import signal
    stage.gateway.program.send_signal(signal.SIGSTOP)
    await asyncio.sleep(random.uniform(0.1,3))
    stage.gateway.program.send_signal(signal.SIGCONT)

async def writer_killed(stage, load):
    from support.processes import kill
    kill(stage.writers(stage.gateway))

async def broker_killed(stage, load):
    await asyncio.to_thread(stage.broker.kill)
    await asyncio.sleep(random.uniform(0,1))
    await asyncio.to_thread(stage.broker.start)
    await stage.ready(stage.gateway)
    await stage.device_listens()

async def broker_paused(stage, load):
    with stage.stalled():
        stage.broker.pause()
        await asyncio.sleep(random.uniform(0.2,5))
        stage.broker.resume()

async def nothing(stage, load):
    pass
if __name__ == '__main__':
    import sys, uvloop, time, io
    name=sys.argv[1]; n=int(sys.argv[2])
    t=time.time()
    buf=io.StringIO()
    with contextlib.redirect_stdout(buf):
        v=uvloop.run(run(name,n,globals()[name]))
    print(name,n,f'{time.time()-t:.1f}s',v.accepted,v.refused,v.unanswered,v.heard,v.heard_again,v.late_in_transit,{k.value:len(x) for k,x in v.broken.items()})
    for k,x in v.broken.items():
        for y in x[:4]: print(k, y)
