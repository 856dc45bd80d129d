package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// uploads is how often the bytes of a file are sent in all.
const uploads = 4

// Server is a build's artefacts on a server.
type Server struct {
	Client *client.Client
	Job    string
	Build  ticket.Number
}

func (s *Server) String() string { return fmt.Sprintf("%s #%d", s.Job, s.Build) }

// Put uploads a file. A new attempt has a new id; what the one before has left
// is named by no build, and is collected.
func (s *Server) Put(ctx context.Context, p []string, _ fs.FileMode, r io.ReadSeeker, size int64) (Artifact, error) {
	for n := 1; ; n++ {
		a, err := s.put(ctx, r, size)
		a.Path = p
		if err == nil || fault.Of(err) != fault.Temporary || n == uploads {
			return a, err
		}
		// What is gone does not come back, and a full store stays full for longer
		// than we wait.
		if errors.Is(err, errShorter) || client.Status(err) == http.StatusInsufficientStorage {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, ctx.Err()
		case <-time.After(100 * time.Millisecond << n):
		}
	}
}

func (s *Server) put(ctx context.Context, r io.ReadSeeker, size int64) (Artifact, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return Artifact{}, err
	}
	d := &digester{ctx: ctx, r: r, sum: sha256.New(), left: size}
	a, err := s.Client.PutArtifact(ctx, s.Job, s.Build, d, size)
	if err != nil && d.short { // a client need not tell why a request was broken off
		return a, errShorter
	}
	if err != nil {
		return a, err
	}
	if sum := hex.EncodeToString(d.sum.Sum(nil)); a.SHA256 != sum || a.Size != size {
		return a, fault.Errorf(fault.Temporary, "%d bytes with SHA-256 %s were sent, but the server has %d with %q", size, sum, a.Size, a.SHA256)
	}
	return a, nil
}

// List lists what the build has published.
func (s *Server) List(ctx context.Context) (map[string]Artifact, error) {
	return s.Client.Artifacts(ctx, s.Job, s.Build)
}

// Open downloads an artefact. Its mode is not known.
func (s *Server) Open(ctx context.Context, a Artifact, offset int64) (io.ReadCloser, fs.FileMode, error) {
	r, err := s.Client.GetArtifact(ctx, s.Job, s.Build, a.ID, offset)
	return r, 0, err
}

// LastSuccessful is the newest build of a job that has ended well.
func LastSuccessful(ctx context.Context, c *client.Client, job string) (ticket.Number, error) {
	ns, err := c.Builds(ctx, job)
	if err != nil {
		return 0, err
	}
	for i := len(ns) - 1; i >= 0; i-- {
		s, err := c.Build(ctx, job, ns[i])
		var answer *client.Error
		if errors.As(err, &answer) && fault.Of(err) == fault.Unavailable {
			continue // deleted meanwhile
		}
		if err != nil {
			return 0, err
		}
		if s.Status == build.Complete && s.Result == ticket.Success {
			return ns[i], nil
		}
	}
	return 0, fault.Errorf(fault.Unavailable, "artifact: the job %s has no successful build", job)
}
