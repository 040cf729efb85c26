/* Linux 4.2. */
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

static atomic_uint turn;

/* `from` has `count` addresses of this machine, with port 0. */
int connect_from(const struct sockaddr_in *from, unsigned int count, const struct sockaddr *to, socklen_t length)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    from += atomic_fetch_add(&turn, 1) % count;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (const struct sockaddr *)from, sizeof *from) == 0 && connect(fd, to, length) == 0)
        return fd;
    close(fd);
    return -1;
}
