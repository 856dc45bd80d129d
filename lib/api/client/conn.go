package client

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// hangUp is how long the answer may take to be read of a server that has
// answered and hung up.
const hangUp = 2 * time.Second

// dialer makes connections to a server that may refuse what it is sent before
// all of it has come, as when its disk is full.
type dialer struct{ net.Dialer }

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{c}, nil
}

// conn tells that no more can be written when there has been time to read why:
// to net/http the request has ended with the first error.
type conn struct{ net.Conn }

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		time.Sleep(hangUp) // if there is no answer, the reader's error ends the request meanwhile
	}
	return n, err
}
