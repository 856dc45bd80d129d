package api

import (
	"net/http"
	"strings"
)

// Pages are for people to look at; package web makes them. What the path of a
// request names is in its path values.
type Pages interface {
	Jobs(http.ResponseWriter, *http.Request) error
	Job(http.ResponseWriter, *http.Request) error
	Build(http.ResponseWriter, *http.Request) error
	Log(http.ResponseWriter, *http.Request) error
	Queue(http.ResponseWriter, *http.Request) error
	Workers(http.ResponseWriter, *http.Request) error
	Asset(http.ResponseWriter, *http.Request) error
	Trigger(http.ResponseWriter, *http.Request) error
	Cancel(http.ResponseWriter, *http.Request) error
	Retry(http.ResponseWriter, *http.Request) error
	// Fail sends the page of an error.
	Fail(w http.ResponseWriter, r *http.Request, code int, text string)
}

// page is the handler of a page.
func page(show func(Pages, http.ResponseWriter, *http.Request) error) func(*call) error {
	return func(c *call) error {
		if c.Pages == nil {
			return status(http.StatusNotFound, "there are no pages here")
		}
		for name, value := range map[string]string{"job": c.job, "build": c.number, "log": c.log, "name": c.name} {
			c.r.SetPathValue(name, value)
		}
		if c.log != "" && c.r.URL.Query().Has("follow") {
			c.Meter.Following(1)
			defer c.Meter.Following(-1)
		}
		return show(c.Pages, c.w, c.r)
	}
}

// isPage tells whether the request is for one of the pages, whose errors are
// pages, too. Those of signing in are not among them: see signInFailed.
func (c *call) isPage() bool {
	path := c.r.URL.Path
	return c.Pages != nil && (path == "/ui" || strings.HasPrefix(path, "/ui/") && !strings.HasPrefix(path, "/ui/sign-"))
}

// root tells the original's clients that we are there, and shows people the way.
func (c *call) root() error {
	if !c.wantsPage() {
		return c.none()
	}
	c.w.Header().Set("Vary", "Accept")
	return c.redirect(home)
}
