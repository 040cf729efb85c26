"""Opens connections to 127.0.0.1 with the function of a snippet, and prints the source port of each."""
import runpy
import sys

path, port, count, *source = sys.argv[1:]
connect = runpy.run_path(path)["connect"]
held = [connect(("127.0.0.1", int(port)), *source) for _ in range(int(count))]
for sock in held:
    print(sock.getsockname()[1])
