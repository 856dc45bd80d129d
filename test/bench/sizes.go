package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/ticket"
)

// sizes measures what builds take: in the coordination while they live and
// after, in the store for ever. It is what the sizing table of distci(7) is made
// of.
func sizes(b *bench) error {
	ctx := context.Background()
	c, err := b.frontend()
	if err != nil {
		return err
	}
	cl, err := b.open()
	if err != nil {
		return err
	}
	defer cl.Close()
	const job = `{"job_id":"sized","tasks":[
		{"type":"execute-shell","params":{"script":"mkdir -p out; seq -f 'line %%07.0f of a log' %d; head -c 1000000 /dev/urandom >out/large; for i in $(seq 10); do echo $i >out/small$i; done"}},
		{"type":"publish-artifacts","params":{"artifacts":["out/*"]}},
		{"type":"execute-shell","params":{"script":"echo done"}}]}`
	const lines = 100_000
	if err := c.PutJob(ctx, "sized", fmt.Appendf(nil, job, lines)); err != nil {
		return err
	}
	count := func() (nodes, bytes int, err error) { return tree(ctx, cl.Conn, "/") }
	before, _, err := count()
	if err != nil {
		return err
	}
	// Nobody works on them yet: the live builds.
	builds := b.some(20, 2)
	var numbers []ticket.Number
	_, empty, err := count()
	if err != nil {
		return err
	}
	for range builds {
		n, err := c.Trigger(ctx, "sized")
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	nodes, live, err := count()
	if err != nil {
		return err
	}
	b.print("coordination: a build that is live", float64(live-empty)/float64(builds), "B", "", 0, "", nil)
	b.print("coordination: nodes of a build that is live", float64(nodes-before)/float64(builds), "", "", 0, "", nil)
	if _, err := b.worker(); err != nil {
		return err
	}
	for _, n := range numbers {
		if _, err := finish(c, "sized", n); err != nil {
			return err
		}
	}
	_, after, err := count()
	if err != nil {
		return err
	}
	b.print("coordination: what all finished builds of a job leave", float64(after-empty), "B", "", 0, "", nil)

	type total struct{ objects, bytes float64 }
	kinds := map[string]total{}
	for last := ""; ; {
		infos, err := cl.Store.List(ctx, "", last, 0)
		if err != nil {
			return err
		}
		for _, i := range infos {
			last = i.Key
			kind := kindOf(i.Key)
			t := kinds[kind]
			kinds[kind] = total{t.objects + 1, t.bytes + float64(i.Size)}
		}
		if len(infos) < 1000 {
			break
		}
	}
	per := float64(builds)
	for _, kind := range []string{"record", "logs", "indexes of logs", "artefacts", "descriptions of artefacts", "lists of artefacts", "workspace", "layers"} {
		t := kinds[kind]
		b.print("store: "+kind+", of a build", t.bytes/per, "B", "", 0, "", nil)
		b.print("store: "+kind+", of a build, objects", t.objects/per, "", "", 0, "", nil)
	}
	return nil
}

// kindOf tells what an object of the store is.
func kindOf(key string) string {
	parts := strings.SplitN(key, "/", 4)
	switch {
	case parts[0] != "builds" || len(parts) < 4:
		return parts[0]
	case parts[3] == "state":
		return "record"
	case strings.HasPrefix(parts[3], "log/"):
		if path.Ext(key) == ".index" {
			return "indexes of logs"
		}
		return "logs"
	case strings.HasPrefix(parts[3], "artifacts/"):
		if path.Ext(key) == ".json" {
			return "descriptions of artefacts"
		}
		return "artefacts"
	case strings.HasPrefix(parts[3], "manifest/"):
		return "lists of artefacts"
	}
	return parts[3]
}

// tree counts the nodes below a path and what they hold: their data and their
// names.
func tree(ctx context.Context, conn coord.Conn, at string) (nodes, bytes int, err error) {
	names, err := conn.Children(ctx, at)
	if errors.Is(err, coord.ErrNoNode) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		below := path.Join(at, name)
		data, _, err := conn.Get(ctx, below)
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			return 0, 0, err
		}
		n, size, err := tree(ctx, conn, below)
		if err != nil {
			return 0, 0, err
		}
		nodes, bytes = nodes+n+1, bytes+size+len(data)+len(below)
	}
	return nodes, bytes, nil
}
