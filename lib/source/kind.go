package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source/pack"
)

// errStalled ends a transfer during which nothing arrived for too long.
var errStalled = errors.New("the server sent nothing for too long")

// kindOf tells what kind of failure a transport's error is. What may pass is
// Temporary, so that another attempt is made; only what another attempt cannot
// change is anything else.
func kindOf(ctx context.Context, err error) fault.Kind {
	if k := fault.Of(err); k != fault.Internal {
		return k
	}
	if ctx.Err() != nil {
		return fault.Of(ctx.Err())
	}
	var (
		unexpected *plumbing.UnexpectedError
		status     *githttp.Err
		garbled    *packp.ErrUnexpectedData
		netErr     net.Error
		cert       *tls.CertificateVerificationError
		authority  x509.UnknownAuthorityError
		hostKey    *knownhosts.KeyError
		revoked    *knownhosts.RevokedError
	)
	// UnexpectedError does not unwrap.
	if errors.As(err, &unexpected) && errors.As(unexpected.Err, &status) {
		return kindOfStatus(status.Response.StatusCode)
	}
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(transport.ErrRepositoryNotFound, transport.ErrEmptyRemoteRepository):
		return fault.Unavailable
	case is(transport.ErrAuthenticationRequired, transport.ErrAuthorizationFailed, transport.ErrInvalidAuthMethod),
		errors.As(err, &hostKey), errors.As(err, &revoked), errors.As(err, &cert), errors.As(err, &authority):
		return fault.Denied
	case is(exec.ErrNotFound):
		return fault.MissingTool
	case errors.As(err, &garbled), is(packp.ErrEmptyInput):
		return fault.Unavailable
	case is(errStalled, io.EOF, io.ErrUnexpectedEOF, pack.ErrCorrupt, pack.ErrNotFound, context.DeadlineExceeded,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EIO), errors.As(err, &netErr):
		return fault.Temporary
	case is(fs.ErrPermission):
		return fault.Denied
	}
	return kindOfText(err.Error())
}

func kindOfStatus(code int) fault.Kind {
	switch {
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return fault.Temporary
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return fault.Denied
	}
	return fault.Unavailable
}

// kindOfText is for what servers and libraries only say in words.
func kindOfText(s string) fault.Kind {
	s = strings.ToLower(s)
	for _, c := range []struct {
		text string
		kind fault.Kind
	}{
		{"unable to authenticate", fault.Denied},
		{"permission denied", fault.Denied},
		{"access denied", fault.Denied},
		{"dubious ownership", fault.Denied},
		{"not a git repository", fault.Unavailable},
		{"no such file or directory", fault.Unavailable},
		{"not our ref", fault.Unavailable},
		{"malformed", fault.Unavailable},
		{"pkt-line", fault.Unavailable},
		{"http redirect", fault.Unavailable},
	} {
		if strings.Contains(s, c.text) {
			return c.kind
		}
	}
	return fault.Temporary
}
