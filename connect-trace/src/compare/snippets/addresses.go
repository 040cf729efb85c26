// Linux 4.2. The addresses are this machine's own.
package ports

import (
	"net"
	"sync/atomic"
	"syscall"
)

const ipBindAddressNoPort = 24

var sources = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)}
var turn atomic.Uint32

func Dial(to string) (net.Conn, error) {
	dialer := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: sources[turn.Add(1)%uint32(len(sources))]},
		Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1)
			})
		},
	}
	return dialer.Dial("tcp", to)
}
