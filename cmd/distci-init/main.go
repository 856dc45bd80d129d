// Command distci-init is the first process in the containers that distci-lxc
// makes. It is no program for people.
package main

import (
	"fmt"
	"os"

	"github.com/distci/distci/lib/sandbox/pid1"
)

func main() {
	if len(os.Args) != 2 || os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "distci-init: this is for the inside of a container; see distci-lxc(1)")
		os.Exit(64)
	}
	os.Exit(pid1.Main(os.Args[1]))
}
