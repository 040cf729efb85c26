// Linux 6.3 or 6.1.32. low and high are net.ipv4.ip_local_port_range.
package ports

import (
	"errors"
	"math/rand"
	"net"
	"syscall"
)

const ipLocalPortRange = 51

var low, high, first = 9024, 65535, 32

func Dial(to string) (net.Conn, error) {
	ports := high - low + 1
	for width := first; ; width *= 2 {
		if width > ports {
			width = ports
		}
		from := low + rand.Intn((ports+width-1)/width)*width
		until := from + width - 1
		if until > high {
			until = high
		}
		// Ports of the parity of the lowest come first, before Linux 6.8: now of one, now of the other.
		if width < ports && from < until {
			from += rand.Intn(2)
		}
		dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, until<<16|from)
			})
		}}
		conn, err := dialer.Dial("tcp", to)
		// If no port of the window is free, a wider one has some.
		if !errors.Is(err, syscall.EADDRNOTAVAIL) || width == ports {
			return conn, err
		}
	}
}
