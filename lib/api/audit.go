package api

import (
	"cmp"
	"net/http"
	"time"

	"github.com/distci/distci/lib/access"
)

// Auditor takes the records of the audit log. Add must not wait for long.
type Auditor interface{ Add(access.Record) }

// audit records what the call has changed, or was not let change. What only
// reads is not recorded, and what comes too often does not fill the log.
func (c *call) audit(rt route) {
	rec := recorderOf(c.w)
	if c.Audit == nil || rt.method == http.MethodGet || rec.code == http.StatusTooManyRequests {
		return
	}
	r := access.Record{
		Time: time.Now(), Who: c.who.Name, Via: c.who.Via, ID: c.who.ID, Role: c.who.Role, From: c.from,
		Method: c.r.Method, Route: "/" + rt.pattern, Job: c.job, Build: int64(c.build),
		Object: cmp.Or(c.task, c.artifact, c.tag), Status: rec.code, Outcome: access.Done, Request: rec.id, Frontend: c.Name,
	}
	switch {
	case rec.code == 0 && c.ended:
		r.Status = http.StatusOK
	case rec.code == 0, rec.code >= 500, rec.err != nil && rec.code < 400:
		r.Outcome = access.Failed // a panic, an error, or broken off
	case rec.code >= 400:
		r.Outcome = access.Refused
	}
	if rec.err != nil {
		_, r.Error = answer(rec.err) // what the client was told
	}
	c.Audit.Add(r)
}
