package api

import (
	"net/http"
	"strconv"

	"github.com/distci/distci/lib/ticket"
)

// Scoped is the part of h that the step of one build may use: everything below
// /jobs can be read, and artefacts and the console of that build written.
func Scoped(h http.Handler, job string, n ticket.Number) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r, job, n) {
			http.Error(w, "a step may read jobs and builds, and write artifacts and the console of its own build", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func allowed(r *http.Request, job string, n ticket.Number) bool {
	parts, err := split(r.URL)
	if err != nil || parts[0] != "jobs" {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return true
	case http.MethodPost, http.MethodPut:
	default:
		return false
	}
	if len(parts) < 5 || parts[1] != job || parts[2] != "builds" || !buildNumber.MatchString(parts[3]) {
		return false
	}
	if k, err := strconv.ParseInt(parts[3], 10, 64); err != nil || ticket.Number(k) != n {
		return false
	}
	return parts[4] == "artifacts" || parts[4] == "console" && r.Method == http.MethodPost
}
