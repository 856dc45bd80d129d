package api

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/distci/distci/lib/bundle"
)

// sendBundle sends all artefacts of a build as one archive, which is made while
// it is sent. What goes wrong on the way breaks the connection off.
func (c *call) sendBundle(format string) error {
	c.problem = true
	f, err := bundle.ParseFormat(format)
	if err != nil {
		return err
	}
	all, err := c.repo.Artifacts(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	files := make([]bundle.File, 0, len(all))
	for id, a := range all {
		files = append(files, bundle.File{ID: id, Path: a.Path, Step: a.Step, Size: a.Size, SHA256: a.SHA256, Time: a.Time})
	}
	c.attach(fmt.Sprintf("%s-%d.%s", c.job, c.build, f))
	h := c.w.Header()
	h.Set("Content-Type", f.MediaType())
	h.Set("Accept-Ranges", "none")
	h.Set("Cache-Control", "no-cache")
	if c.r.Method == http.MethodHead {
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	return bundle.Write(c.r.Context(), replyWriter{c.w}, f, bundle.Place(files), func(ctx context.Context, file bundle.File) (io.ReadCloser, error) {
		rd, _, err := c.repo.OpenArtifact(ctx, c.job, c.build, file.ID, all[file.ID])
		return rd, err
	})
}

// replyWriter tells the client's errors from those of what is sent.
type replyWriter struct{ io.Writer }

func (w replyWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	return n, gone(err)
}
