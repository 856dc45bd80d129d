package api

import (
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/distci/distci/lib/workspace"
)

// needLayers: the server of one build's step has no cache of layers.
func (c *call) needLayers() error {
	if c.Layers == nil {
		return status(http.StatusNotImplemented, "workspaces are not served here")
	}
	return nil
}

// getWorkspace sends a workspace as one tar.gz. It goes through a file, because
// the client wants to know the size first.
func (c *call) getWorkspace() error {
	if err := c.needLayers(); err != nil {
		return err
	}
	layers, err := c.repo.Workspace(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(c.Temp, "distci-workspace-")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if err := c.Layers.Flatten(c.r.Context(), layers, f); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", "attachment")
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if c.r.Method == http.MethodHead {
		return nil
	}
	_, err = io.Copy(c.w, f)
	return gone(err)
}

func (c *call) putWorkspace() error {
	if err := c.needLayers(); err != nil {
		return err
	}
	ctx := c.r.Context()
	if _, err := c.repo.Build(ctx, c.job, c.build); err != nil {
		return err
	}
	body, err := c.upload()
	if err != nil {
		return err
	}
	layer, err := c.Layers.Import(ctx, body, workspace.Limits{})
	if body.err != nil {
		return bodyError(body.err)
	}
	if err != nil {
		return err
	}
	layers := []string{}
	if !layer.Empty() {
		layers = append(layers, layer.Digest)
	}
	if err := c.repo.PutWorkspace(ctx, c.job, c.build, layers); err != nil {
		return err
	}
	return c.none()
}

func (c *call) deleteWorkspace() error {
	if err := c.repo.DeleteWorkspace(c.r.Context(), c.job, c.build); err != nil {
		return err
	}
	return c.none()
}
