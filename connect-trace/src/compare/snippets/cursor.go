// Any kernel. low and high are net.ipv4.ip_local_port_range; leave out net.ipv4.ip_local_reserved_ports.
package ports

import (
	"errors"
	"math/rand"
	"net"
	"sync/atomic"
	"syscall"
)

var low, high = 9024, 65535
var list = rand.Perm(high - low + 1)
var turn atomic.Uint32

func Dial(source net.IP, to string) (net.Conn, error) {
	for failed := 0; ; failed++ {
		port := low + list[turn.Add(1)%uint32(len(list))]
		dialer := net.Dialer{
			LocalAddr: &net.TCPAddr{IP: source, Port: port},
			Control: func(_, _ string, raw syscall.RawConn) error {
				return raw.Control(func(fd uintptr) {
					syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
				})
			},
		}
		conn, err := dialer.Dial("tcp", to)
		taken := errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)
		if !taken || failed == len(list) {
			return conn, err
		}
	}
}
