# Linux 6.3 or 6.1.32. LOW and HIGH are net.ipv4.ip_local_port_range.
import errno
import random
import socket
import sys

IP_LOCAL_PORT_RANGE = 51
LOW, HIGH, FIRST = 9024, 65535, 32
PORTS = HIGH - LOW + 1


def connect(to):
    sock = socket.socket()
    width = FIRST
    while True:
        width = min(width, PORTS)
        low = random.randrange(LOW, HIGH + 1, width)
        high = min(low + width - 1, HIGH)
        # Ports of the parity of the lowest come first, before Linux 6.8: now of one, now of the other.
        if width < PORTS:
            low = min(low + random.randrange(2), high)
        ports = (high << 16 | low).to_bytes(4, sys.byteorder)
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, ports)
        try:
            sock.connect(to)
            return sock
        except OSError as error:
            # If no port of the window is free, a wider one has some.
            if error.errno != errno.EADDRNOTAVAIL or width == PORTS:
                sock.close()
                raise
        width *= 2
