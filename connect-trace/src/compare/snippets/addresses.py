# Linux 4.2. The addresses are this machine's own.
import itertools
import socket

IP_BIND_ADDRESS_NO_PORT = 24
turns = itertools.cycle(["127.0.0.1", "127.0.0.2"])


def connect(to):
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((next(turns), 0))
    sock.connect(to)
    return sock
