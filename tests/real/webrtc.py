"""One side of a WebRTC data channel by aiortc: descriptions through a shared folder, a TURN server on the Internet.

webrtc.py a|b FOLDER
"""

import asyncio
import json
import pathlib
import sys

from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

side, folder = sys.argv[1], pathlib.Path(sys.argv[2])
SERVERS = [
    RTCIceServer("stun:198.51.100.10:3478"),
    RTCIceServer("turn:198.51.100.20:3478", username="user", credential="password"),
]


def tell(name, description):
    draft = folder / f"{name}.draft"
    draft.write_text(json.dumps({"sdp": description.sdp, "type": description.type}))
    draft.rename(folder / name)


async def hear(name):
    while not (folder / name).exists():
        await asyncio.sleep(0.05)
    return RTCSessionDescription(**json.loads((folder / name).read_text()))


async def main():
    peer = RTCPeerConnection(RTCConfiguration(SERVERS))
    done = asyncio.Event()

    def listen(channel):
        @channel.on("message")
        def heard(message):
            print("heard:", message, flush=True)
            if side == "b":
                channel.send("hello from b")
            done.set()

    if side == "a":
        channel = peer.createDataChannel("chat")
        channel.on("open", lambda: channel.send("hello from a"))
        listen(channel)
        await peer.setLocalDescription(await peer.createOffer())
        tell("offer", peer.localDescription)
        await peer.setRemoteDescription(await hear("answer"))
    else:
        peer.on("datachannel", listen)
        await peer.setRemoteDescription(await hear("offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        tell("answer", peer.localDescription)
    await asyncio.wait_for(done.wait(), 40)
    # What was sent last has to leave.
    await asyncio.sleep(1)
    await peer.close()


asyncio.run(main())
