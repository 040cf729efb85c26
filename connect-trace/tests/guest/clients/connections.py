"""For each of the HOSTS opens COUNT connections to PORT at the same time, and prints the local ports."""

import asyncio
import sys


async def main(port, count, *hosts):
    for host in hosts:
        opening = (asyncio.open_connection(host, port) for _ in range(int(count)))
        # They stay open until all are, so that no two have the same port.
        writers = [writer for _, writer in await asyncio.gather(*opening)]
        for writer in writers:
            print(host, writer.get_extra_info("sockname")[1])
            writer.close()


asyncio.run(main(*sys.argv[1:]))
