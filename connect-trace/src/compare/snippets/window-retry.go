// Linux 6.3 or 6.1.32. low and high are net.ipv4.ip_local_port_range.
package ports

import (
	"errors"
	"math/rand"
	"net"
	"syscall"
)

const ipLocalPortRange = 51

var low, high, first = 9024, 65535, 64

func Dial(to string) (net.Conn, error) {
	ports := high - low + 1
	for width := first; ; width *= 2 {
		width = min(width, ports)
		from := low + rand.Intn((ports+width-1)/width)*width
		window := min(from+width-1, high)<<16 | from
		dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, window)
			})
		}}
		conn, err := dialer.Dial("tcp", to)
		// If no port of the window is free, there are others.
		if !errors.Is(err, syscall.EADDRNOTAVAIL) || width == ports {
			return conn, err
		}
	}
}
