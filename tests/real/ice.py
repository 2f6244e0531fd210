"""One side of an ICE connection by aioice: candidates through a shared folder, STUN and TURN servers of the lab.

ice.py a|b FOLDER EXPECTED   EXPECTED is `relay` or `direct`: what the selected pair is. For `direct` no relay is offered:
aioice nominates the first pair that answers, and a lost race would say nothing about the NATs.
"""

import asyncio
import pathlib
import sys

import aioice

side, folder, expected = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
other = "b" if side == "a" else "a"


relay = {
    "turn_server": ("198.51.100.20", 3478),
    "turn_username": "user",
    "turn_password": "password",
}


async def main():
    connection = aioice.Connection(
        ice_controlling=side == "a",
        stun_server=("198.51.100.10", 3478),
        **(relay if expected == "relay" else {}),
    )
    await connection.gather_candidates()
    lines = [connection.local_username, connection.local_password]
    lines += [candidate.to_sdp() for candidate in connection.local_candidates]
    draft = folder / f"{side}.draft"
    draft.write_text("\n".join(lines))
    draft.rename(folder / side)
    while not (folder / other).exists():
        await asyncio.sleep(0.05)
    lines = (folder / other).read_text().splitlines()
    connection.remote_username, connection.remote_password = lines[:2]
    for line in lines[2:]:
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(line))
    await connection.add_remote_candidate(None)
    await asyncio.wait_for(connection.connect(), 30)
    await connection.send(f"hello from {side}".encode())
    heard = await asyncio.wait_for(connection.recv(), 10)
    assert heard == f"hello from {other}".encode(), heard
    pair = connection._nominated[1]
    kinds = sorted({pair.local_candidate.type, pair.remote_candidate.type})
    way = "relay" if "relay" in kinds else "direct"
    print(f"connected: {way} ({' and '.join(kinds)})", flush=True)
    # The other side may still wait for the last check.
    await asyncio.sleep(0.5)
    await connection.close()
    return 0 if way == expected else 1


sys.exit(asyncio.run(main()))
