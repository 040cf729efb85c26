"""Opens COUNT connections to HOST PORT at the same time and prints the local port of each."""

import asyncio
import sys


async def main(host, port, count):
    opening = (asyncio.open_connection(host, port) for _ in range(count))
    # They stay open until all are, so that no two have the same port.
    for _, writer in await asyncio.gather(*opening):
        print(writer.get_extra_info("sockname")[1])
        writer.close()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
