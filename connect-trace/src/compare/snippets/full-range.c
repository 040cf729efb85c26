/* Linux 6.8. A kernel that refuses the option searches as it does without. */
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif

int connect_to(const struct sockaddr *to, socklen_t length)
{
    /* Highest port << 16 | lowest; the kernel cuts it to net.ipv4.ip_local_port_range. */
    unsigned int all_ports = 65535u << 16 | 1;
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &all_ports, sizeof all_ports);
    if (connect(fd, to, length) == 0)
        return fd;
    close(fd);
    return -1;
}
