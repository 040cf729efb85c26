# Any kernel. LOW and HIGH are net.ipv4.ip_local_port_range; leave out net.ipv4.ip_local_reserved_ports.
import errno
import itertools
import random
import socket

LOW, HIGH = 9024, 65535
PORTS = HIGH - LOW + 1
turns = itertools.cycle(random.sample(range(LOW, HIGH + 1), PORTS))


def connect(to, source):
    for port in itertools.islice(turns, PORTS):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((source, port))
            sock.connect(to)
            return sock
        except OSError as error:
            sock.close()
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
    raise OSError(errno.EADDRNOTAVAIL, "no port is free")
