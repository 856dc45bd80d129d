package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Filter says which records of the audit log are wanted. What is empty does not
// matter.
type Filter struct {
	Since, Until time.Time // from the one to before the other
	Who          string    // pattern of [path.Match] for the name, or the id of a token
	Job          string    // pattern for the job
}

func (f *Filter) wants(r *Record) bool {
	if r.Time.Before(f.Since) || !f.Until.IsZero() && !r.Time.Before(f.Until) {
		return false
	}
	if f.Who != "" && r.ID != f.Who {
		if ok, _ := path.Match(f.Who, r.Who); !ok && r.Who != f.Who { // an address of mail has no *, a URI may have a slash
			return false
		}
	}
	if f.Job != "" {
		if ok, _ := path.Match(f.Job, r.Job); !ok {
			return false
		}
	}
	return true
}

// Audits calls f with each record of the audit log that the filter wants, those
// of all frontends in the order of their times. The error of f ends it. What
// cannot be read is skipped, and told in an error of kind Verdict at the end.
func Audits(ctx context.Context, st store.Store, filter Filter, f func(Record) error) error {
	for _, pattern := range []string{filter.Who, filter.Job} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fault.Errorf(fault.Usage, "%.300q is not a pattern", pattern)
		}
	}
	damaged := 0
	err := eachHour(ctx, st, filter.Since, filter.Until, func(infos []store.Info) error {
		var records []Record
		for _, i := range infos {
			got, bad, err := readAudit(ctx, st, i.Key)
			if err != nil {
				return err
			}
			damaged += bad
			for _, r := range got {
				if filter.wants(&r) {
					records = append(records, r)
				}
			}
		}
		slices.SortStableFunc(records, func(a, b Record) int { return a.Time.Compare(b.Time) })
		for _, r := range records {
			if err := f(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && damaged > 0 {
		err = fault.Errorf(fault.Verdict, "audit log: %d lines cannot be read", damaged)
	}
	return err
}

// eachHour calls f with the objects of each hour, in order.
func eachHour(ctx context.Context, st store.Store, since, until time.Time, f func([]store.Info) error) error {
	after := ""
	if !since.IsZero() {
		after = auditHour(since)
	}
	var hour string
	var infos []store.Info
	for {
		page, err := st.List(ctx, auditPrefix, after, 1000)
		if err != nil {
			return err
		}
		for _, i := range page {
			after = i.Key
			h := i.Key[:strings.LastIndexByte(i.Key, '/')+1]
			if h != hour && len(infos) > 0 {
				if err := f(infos); err != nil {
					return err
				}
				infos = nil
			}
			if hour = h; !until.IsZero() && h > auditHour(until) {
				return nil
			}
			infos = append(infos, i)
		}
		if len(page) < 1000 {
			break
		}
	}
	if len(infos) == 0 {
		return nil
	}
	return f(infos)
}

// readAudit reads an object. A last line that has no end is being written, or
// its writer was killed while he wrote it: then it was never reported as done.
func readAudit(ctx context.Context, st store.Store, key string) (records []Record, bad int, err error) {
	b, _, err := store.ReadAll(ctx, st, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil // removed since
	}
	if err != nil {
		return nil, 0, fmt.Errorf("audit log: %w", err)
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	for line := range bytes.Lines(b) {
		var r Record
		if err := json.Unmarshal(line, &r); err != nil || r.Time.IsZero() {
			bad++
			continue
		}
		records = append(records, r)
	}
	return records, bad, nil
}

// ForgetAudit removes the audit log of the whole hours before a time, and
// returns how many objects those were.
func ForgetAudit(ctx context.Context, st store.Store, before time.Time) (n int, err error) {
	end := auditHour(before)
	for {
		page, err := st.List(ctx, auditPrefix, "", 1000)
		if err != nil {
			return n, err
		}
		for _, i := range page {
			if i.Key >= end {
				return n, nil
			}
			if err := st.Delete(ctx, i.Key); err != nil && !errors.Is(err, store.ErrNotFound) {
				return n, err
			}
			n++
		}
		if len(page) < 1000 {
			return n, nil
		}
	}
}

// WriteRecord adds a record to the audit log and waits until it is safe, for a
// program that does one thing and ends. The name is as for [NewAudit].
func WriteRecord(ctx context.Context, st store.Store, name string, r Record) error {
	r.Time = r.Time.UTC()
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = st.Create(ctx, auditHour(r.Time)+name, io.MultiReader(bytes.NewReader(b), strings.NewReader("\n")))
	return err
}
