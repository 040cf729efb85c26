# Linux 6.8. A kernel before 6.1.32 or 6.3 refuses the option.
import socket
import sys

IP_LOCAL_PORT_RANGE = 51
# Highest port << 16 | lowest; the kernel cuts it to net.ipv4.ip_local_port_range.
ALL_PORTS = (65535 << 16 | 1).to_bytes(4, sys.byteorder)


def connect(to):
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, ALL_PORTS)
    sock.connect(to)
    return sock
