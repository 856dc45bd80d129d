package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// repository makes a repository of some thousand files and some hundred
// commits, from a fixed recipe.
func repository(dir string) error {
	script := `set -e
git init -q -b main "$0"
cd "$0"
git config user.name bench
git config user.email bench@localhost
for d in $(seq 100); do
	mkdir -p src/$d
	for f in $(seq 30); do
		seq $((d * f)) $((d * f + 200)) >src/$d/$f.txt
	done
done
git add .
git commit -q -m first
for i in $(seq 300); do
	echo "$i" >>src/$((i % 100 + 1))/1.txt
	git commit -q -a -m "change $i"
done
git gc -q
`
	cmd := exec.Command("sh", "-c", script, dir)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// checkout compares distci-checkout with git clone, pair by pair.
func checkout(b *bench) error {
	repo := filepath.Join(b.dir, "repo")
	if err := repository(repo); err != nil {
		return err
	}
	timed := func(cmd *exec.Cmd) (float64, error) {
		cmd.Env = b.env()
		from := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return ms(from, time.Now()), err
	}
	ours := func(ws, mirror string) (float64, error) {
		cmd := exec.Command(program("distci-checkout"), "--repository", "file://"+repo, "--ref", "main", "--workspace", ws, "--mirror", mirror)
		cmd.Stdin = strings.NewReader("{}")
		return timed(cmd)
	}
	var clone, first, second []float64
	for i := range 5 {
		dir := filepath.Join(b.dir, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		c, err := timed(exec.Command("git", "clone", "-q", "file://"+repo, filepath.Join(dir, "git")))
		if err != nil {
			return err
		}
		f, err := ours(filepath.Join(dir, "ws1"), filepath.Join(dir, "mirror"))
		if err != nil {
			return err
		}
		s, err := ours(filepath.Join(dir, "ws2"), filepath.Join(dir, "mirror"))
		if err != nil {
			return err
		}
		clone, first, second = append(clone, c), append(first, f), append(second, s)
	}
	floor := quantile(clone, 0.5)
	b.print("checkout, p50 of 5", quantile(first, 0.5), "ms", "git clone", floor, "<= 1.2 x", func(_, r float64) bool { return r <= 1.2 })
	b.print("second checkout on the same worker, p50 of 5", quantile(second, 0.5), "ms", "git clone", floor, "<= 0.3 x", func(_, r float64) bool { return r <= 0.3 })
	return nil
}
