package api

import (
	"net/http"
	"strings"

	"github.com/distci/distci/lib/web"
)

// page is the handler of a page.
func page(show func(*web.Pages, http.ResponseWriter, *http.Request, web.Request) error) func(*call) error {
	return func(c *call) error {
		return show(c.pages, c.w, c.r, web.Request{Job: c.job, Build: c.build, Log: c.log, Asset: c.name})
	}
}

// isPage tells whether the request is for one of the pages, whose errors are
// pages, too. Those of signing in are not among them: see signInFailed.
func (c *call) isPage() bool {
	path := c.r.URL.Path
	return path == "/ui" || strings.HasPrefix(path, "/ui/") && !strings.HasPrefix(path, "/ui/sign-")
}

// root tells the original's clients that we are there, and shows people the way.
func (c *call) root() error {
	if !c.wantsPage() {
		return c.none()
	}
	c.w.Header().Set("Vary", "Accept")
	return c.redirect(home)
}
