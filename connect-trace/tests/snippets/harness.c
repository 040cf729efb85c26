/* Opens COUNT connections to 127.0.0.1:PORT with the function of a snippet, and prints the source port of each. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET}, local;
    struct sockaddr_in from[2] = {{.sin_family = AF_INET}, {.sin_family = AF_INET}};

    if (argc != 3)
        return 2;
    to.sin_port = htons(atoi(argv[1]));
    to.sin_addr.s_addr = from[0].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from[1].sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    for (int left = atoi(argv[2]); left > 0; left--) {
        socklen_t length = sizeof local;
        int fd = CONNECT;

        if (fd < 0) {
            perror("connect");
            return 1;
        }
        getsockname(fd, (struct sockaddr *)&local, &length);
        printf("%d\n", ntohs(local.sin_port));
    }
    return 0;
}
