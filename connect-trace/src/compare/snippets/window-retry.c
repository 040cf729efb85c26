/* Linux 6.3 or 6.1.32. LOW and HIGH are net.ipv4.ip_local_port_range. */
#include <errno.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif

enum { LOW = 9024, HIGH = 65535, PORTS = HIGH - LOW + 1, FIRST = 32 };

int connect_to(const struct sockaddr *to, socklen_t length)
{
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    for (int width = FIRST;; width *= 2) {
        unsigned int random = 0;

        getrandom(&random, sizeof random, 0);
        if (width > PORTS)
            width = PORTS;
        unsigned int low = LOW + random / 2 % ((PORTS + width - 1) / width) * width;
        unsigned int high = low + width - 1 < HIGH ? low + width - 1 : HIGH;
        /* Ports of the parity of the lowest come first, before Linux 6.8: now of one, now of the other. */
        if (width < PORTS && low < high)
            low += random % 2;
        unsigned int ports = high << 16 | low;

        setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &ports, sizeof ports);
        if (connect(fd, to, length) == 0)
            return fd;
        /* If no port of the window is free, a wider one has some. */
        if (errno != EADDRNOTAVAIL || width == PORTS)
            break;
    }
    close(fd);
    return -1;
}
