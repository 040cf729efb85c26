// Linux 6.8. A kernel that refuses the option searches as it does without.
package ports

import (
	"net"
	"syscall"
)

const ipLocalPortRange = 51

// Highest port << 16 | lowest; the kernel cuts it to net.ipv4.ip_local_port_range.
var allPorts = 65535<<16 | 1

func Dial(to string) (net.Conn, error) {
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, allPorts)
		})
	}}
	return dialer.Dial("tcp", to)
}
