package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/workspace"
)

// artifacts answers below /jobs/ID/builds/N/artifacts.
func (s *server) artifacts(x *exchange, id string, n ticket.Number, parts []string) error {
	ctx := x.Context()
	switch {
	case len(parts) == 0 && x.Method == http.MethodGet:
		all, err := s.repo.Artifacts(ctx, id, n)
		if err != nil {
			return err
		}
		return x.reply(http.StatusOK, map[string]any{"job_id": id, "build_number": int64(n), "artifacts": all})
	case len(parts) == 0 && x.Method == http.MethodPost:
		return s.putArtifact(x, id, n, "", http.StatusCreated)
	case len(parts) == 0:
		return errMethod
	}
	if !ticket.ValidID(parts[0]) {
		return errID
	}
	switch {
	case x.Method == http.MethodGet && len(parts) <= 2:
		return s.getArtifact(x, id, n, parts[0])
	case x.Method == http.MethodPut && len(parts) == 1:
		return s.putArtifact(x, id, n, parts[0], http.StatusOK)
	case x.Method == http.MethodDelete && len(parts) == 1:
		if err := s.repo.DeleteArtifact(ctx, id, n, parts[0]); err != nil {
			return err
		}
		return x.empty()
	}
	return errMethod
}

func (s *server) putArtifact(x *exchange, job string, n ticket.Number, id string, status int) error {
	id, a, err := s.repo.PutArtifact(x.Context(), job, n, id, x.stream(s.MaxUpload))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) || errors.Is(err, io.ErrUnexpectedEOF) {
		return bodyError(err)
	}
	if err != nil {
		return err
	}
	return x.reply(status, map[string]any{"job_id": job, "build_number": int64(n), "artifact_id": id, "size": a.Size, "sha256": a.SHA256})
}

// getArtifact sends an artefact, or the range that was asked for. A browser
// gets a file to keep, and runs nothing of it.
func (s *server) getArtifact(x *exchange, job string, n ticket.Number, id string) error {
	a, err := s.repo.StatArtifact(x.Context(), job, n, id)
	if err != nil {
		return err
	}
	h := x.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", "attachment")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("ETag", `"`+a.SHA256+`"`)
	file := &artifactReader{s: s, x: x, job: job, n: n, id: id, size: a.Size}
	defer file.close()
	http.ServeContent(x, x.Request, "", time.Time{}, file)
	return file.err
}

// artifactReader reads an artefact from where it was set to.
type artifactReader struct {
	s      *server
	x      *exchange
	job    string
	n      ticket.Number
	id     string
	size   int64
	offset int64
	rd     io.ReadCloser
	err    error
}

// Seek implements io.Seeker.
func (f *artifactReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("negative offset")
	}
	if offset != f.offset {
		f.close()
	}
	f.offset = offset
	return offset, nil
}

// Read implements io.Reader.
func (f *artifactReader) Read(p []byte) (int, error) {
	if f.rd == nil {
		if f.rd, _, f.err = f.s.repo.GetArtifact(f.x.Context(), f.job, f.n, f.id, f.offset, -1); f.err != nil {
			return 0, f.err
		}
	}
	n, err := f.rd.Read(p)
	f.offset += int64(n)
	return n, err
}

func (f *artifactReader) close() {
	if f.rd != nil {
		f.rd.Close()
		f.rd = nil
	}
}

// workspace answers for a build's workspace as one archive.
func (s *server) workspace(x *exchange, id string, n ticket.Number) error {
	ctx := x.Context()
	if s.Layers == nil {
		return fault.Errorf(fault.Denied, "workspaces are not served here")
	}
	switch x.Method {
	case http.MethodGet:
		digests, err := s.repo.Workspace(ctx, id, n)
		if err != nil {
			return err
		}
		tmp, err := os.CreateTemp("", "distci-workspace-")
		if err != nil {
			return fault.Wrap(fault.Temporary, err)
		}
		defer tmp.Close()
		os.Remove(tmp.Name())
		if err := s.Layers.Flatten(ctx, digests, tmp); err != nil {
			return err
		}
		size, err := tmp.Seek(0, io.SeekCurrent)
		if err == nil {
			_, err = tmp.Seek(0, io.SeekStart)
		}
		if err != nil {
			return err
		}
		x.Header().Set("Content-Type", "application/octet-stream")
		x.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, err = io.Copy(x, tmp)
		return ignoreBroken(err)
	case http.MethodPut:
		if _, err := s.repo.Build(ctx, id, n); err != nil {
			return err
		}
		body := x.stream(s.MaxUpload)
		layer, err := s.Layers.Import(ctx, body, workspace.Limits{})
		if err != nil {
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				return bodyError(err)
			}
			return err
		}
		if err := s.repo.PutWorkspace(ctx, id, n, []string{layer.Digest}); err != nil {
			return err
		}
		return x.empty()
	case http.MethodDelete:
		if err := s.repo.DeleteWorkspace(ctx, id, n); err != nil {
			return err
		}
		return x.empty()
	}
	return errMethod
}
