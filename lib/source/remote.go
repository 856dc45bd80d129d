package source

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source/pack"
)

// stall is how long a server may be silent.
const stall = 5 * time.Minute

// remote is a conversation with a server: its refs, and at most one pack.
type remote struct {
	access  *access
	loc     location
	session transport.UploadPackSession
	refs    *packp.AdvRefs
}

// dial asks the server for its refs.
func (a *access) dial(ctx context.Context, loc location) (*remote, error) {
	if err := loc.exists(); err != nil {
		return nil, err
	}
	client, auth, err := a.client(loc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stall, errStalled)
	defer cancel()
	s, err := connect(ctx, client, loc, auth)
	if err != nil {
		return nil, err
	}
	refs, err := s.AdvertisedReferencesContext(ctx)
	if err != nil {
		s.Close()
		if context.Cause(ctx) == errStalled {
			err = errStalled
		}
		return nil, err
	}
	return &remote{a, loc, s, refs}, nil
}

// connect is NewUploadPackSession with a context, which go-git's does not
// take: that of ssh waits for the host. A connection that comes too late is
// closed by the goroutine that waited for it.
func connect(ctx context.Context, c transport.Transport, loc location, auth transport.AuthMethod) (transport.UploadPackSession, error) {
	type result struct {
		s   transport.UploadPackSession
		err error
	}
	done := make(chan result)
	ep := *loc.endpoint // http follows a redirect by changing it
	go func() {
		s, err := c.NewUploadPackSession(&ep, auth)
		select {
		case done <- result{s, err}:
		case <-ctx.Done():
			if err == nil {
				s.Close()
			}
		}
	}()
	select {
	case r := <-done:
		return r.s, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *remote) close() { r.session.Close() }

// fetch receives a pack with the wanted objects and what they need, without
// what the objects of have need, into a folder. It returns the commits whose
// parents were left out because of depth.
func (r *remote) fetch(ctx context.Context, dir string, want, have []plumbing.Hash, depth int) ([]plumbing.Hash, error) {
	caps := r.refs.Capabilities
	req := packp.NewUploadPackRequestFromCapabilities(caps)
	req.Wants, req.Haves = want, have
	if depth > 0 {
		if !caps.Supports(capability.Shallow) {
			return nil, fault.Errorf(fault.Unavailable, "the server cannot give a part of the history; leave out depth")
		}
		req.Depth = packp.DepthCommits(depth)
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return nil, err
		}
	}
	if r.access.Progress == nil && caps.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()
	res, err := r.session.UploadPack(ctx, req)
	if err == nil {
		defer res.Close()
		alive := readerFunc(func(p []byte) (int, error) {
			n, err := res.Read(p)
			watch.Reset(stall)
			return n, err
		})
		_, err = pack.Receive(ctx, dir, r.demux(req.Capabilities, alive))
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("fetching: %w", err)
	}
	return res.Shallows, nil
}

// demux takes the pack out of the server's answer.
func (r *remote) demux(caps *capability.List, in io.Reader) io.Reader {
	var typ sideband.Type
	switch {
	case caps.Supports(capability.Sideband64k):
		typ = sideband.Sideband64k
	case caps.Supports(capability.Sideband):
		typ = sideband.Sideband
	default:
		return in
	}
	d := sideband.NewDemuxer(typ, in)
	if r.access.Progress != nil {
		d.Progress = r.access.Progress
	}
	return d
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
