// Opens connections to 127.0.0.1 with the function of a snippet, and prints the source port of each.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

func main() {
	left, err := strconv.Atoi(os.Args[2])
	var held []net.Conn
	for ; err == nil && left > 0; left-- {
		var conn net.Conn
		conn, err = DIAL
		held = append(held, conn)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, conn := range held {
		fmt.Println(conn.LocalAddr().(*net.TCPAddr).Port)
	}
}
