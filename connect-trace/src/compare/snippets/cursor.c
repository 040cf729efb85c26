/* Any kernel. LOW and HIGH are net.ipv4.ip_local_port_range; leave out net.ipv4.ip_local_reserved_ports. */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOW = 9024, HIGH = 65535, PORTS = HIGH - LOW + 1 };

static in_port_t list[PORTS];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static atomic_uint turn;

static void shuffle(void)
{
    for (unsigned int i = 0; i < PORTS; i++) {
        unsigned int j = 0;
        getrandom(&j, sizeof j, 0);
        j %= i + 1;
        list[i] = list[j];
        list[j] = LOW + i;
    }
}

/* `from` is the source address. */
int connect_from(struct sockaddr_in from, const struct sockaddr *to, socklen_t length)
{
    pthread_once(&once, shuffle);
    for (unsigned int failed = 0; failed < PORTS; failed++) {
        int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
            return -1;
        from.sin_port = htons(list[atomic_fetch_add(&turn, 1) % PORTS]);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&from, sizeof from) == 0 && connect(fd, to, length) == 0)
            return fd;
        close(fd);
        if (errno != EADDRINUSE && errno != EADDRNOTAVAIL)
            return -1;
    }
    return -1;
}
