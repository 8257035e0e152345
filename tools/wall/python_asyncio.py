# The pattern of the echo server in the documentation of Python's asyncio
# streams: one read of 100 bytes, one answer, and the end.
import asyncio
import sys


async def handle(reader, writer):
    writer.write(await reader.read(100))
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
