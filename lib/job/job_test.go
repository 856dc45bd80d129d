package job

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

func TestParse(t *testing.T) {
	j, err := Parse([]byte(`{
		"job_id": "distci", "configuration-version": "2013-02-26", "description": "itself",
		"parameters": {"LEVEL": "1", "COLOR": "blue"},
		"env": {"COLOR": "red", "LANG": "C"},
		"tasks": [
			{"type": "git-checkout", "params": {"repository": "https://git.example/distci.git", "ref": "master", "checkout-dir": "src", "depth": 1, "submodules": true}},
			{"type": "execute-shell", "name": "test", "labels": ["big", "arm"], "env": {"LANG": "fi"}, "timeout": 60, "retry": 1,
			 "params": {"script": ["make", "make test"], "working_directory": "src", "nodelabels": ["arm"]}},
			{"type": "publish-artifacts", "params": {"artifacts": ["**/*.log"], "always": true, "allow_empty": true}},
			{"type": "copy-artifacts", "params": {"job": "other", "artifacts": ["*"], "target_directory": "o", "build": "last-successful", "flatten": true}},
			{"type": "x-ray", "params": {"anything": [1.50]}}
		],
		"triggers": {"events": ["tag"], "tags": ["v*", "!v0*"]}, "status": {"forge": "github", "secret": "TOKEN"}, "downstream_jobs": ["other"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if j.ID != "distci" || j.Description != "itself" || !reflect.DeepEqual(j.Downstream, []string{"other"}) ||
		!reflect.DeepEqual(j.Triggers, Triggers{Events: []string{"tag"}, Tags: []string{"v*", "!v0*"}}) ||
		*j.Status != (Status{"github", "https://api.github.com", "TOKEN", "distci/distci"}) {
		t.Errorf("job: %+v", j)
	}
	var got []string
	for _, s := range j.Steps {
		got = append(got, fmt.Sprintf("%s needs %v %q %v %d×%d %v", s.Key, s.Needs, s.When, s.Capabilities(), s.Timeout, s.Retry, s.Env))
	}
	for i, want := range []string{
		`0 needs [] "" [git_checkout_v1] 0×3 map[COLOR:red LANG:C LEVEL:1]`,
		`1 needs [0] "" [execute_shell_v1 nodelabel_arm nodelabel_big] 60×1 map[COLOR:red LANG:fi LEVEL:1]`,
		`2 needs [1] "always" [publish_artifacts_v1] 0×3 map[COLOR:red LANG:C LEVEL:1]`,
		`3 needs [1 2] "" [copy_artifacts_v1] 0×3 map[COLOR:red LANG:C LEVEL:1]`, // a success of 2 hides a failure of 1
		`4 needs [3] "" [x_ray_v1] 0×3 map[COLOR:red LANG:C LEVEL:1]`,
	} {
		if got[i] != want {
			t.Errorf("step %s\nwant %s", got[i], want)
		}
	}
	if string(j.Steps[4].Params) != `{"anything": [1.50]}` {
		t.Errorf("params: %s", j.Steps[4].Params)
	}

	k, err := j.WithParameters(map[string]string{"LEVEL": "2"})
	if err != nil || k.Steps[0].Env["LEVEL"] != "2" || j.Steps[0].Env["LEVEL"] != "1" {
		t.Errorf("with LEVEL=2: %v, %v", k, err)
	}
	_, err = j.WithParameters(map[string]string{"SPEED": "2"})
	if fault.Of(err) != fault.Usage || err.Error() != `job distci: unknown parameter "SPEED" (known: COLOR, LEVEL)` {
		t.Errorf("with SPEED=2: %v", err)
	}
}

// TestTasksByIndex reads the original's other form of the tasks: 10 comes
// after 2.
func TestTasksByIndex(t *testing.T) {
	j, err := Parse([]byte(`{"job_id": "a", "tasks": {"10": {"type": "c"}, "2": {"type": "b"}, "0": {"type": "a"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range j.Steps {
		got = append(got, s.Key+s.Type)
	}
	if fmt.Sprint(got) != "[0a 1b 2c]" || fmt.Sprint(j.Steps[2].Needs) != "[1]" {
		t.Errorf("steps %v, needs of the last %v", got, j.Steps[2].Needs)
	}
}

// TestImage: a step with an image is for workers that have it.
func TestImage(t *testing.T) {
	j, err := Parse([]byte(`{"job_id": "a", "tasks": [{"type": "foo", "image": "debian-12", "labels": ["x"]}, {"type": "foo"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(j.Steps[0].Image, j.Steps[0].Capabilities(), j.Steps[1].Capabilities()); got != "debian-12[foo_v1 image_debian-12 nodelabel_x] [foo_v1]" {
		t.Error(got)
	}
}

// TestConfinement: what a step asks for of the worker, sizes as bytes.
func TestConfinement(t *testing.T) {
	j, err := Parse([]byte(`{"job_id": "a", "tasks": [
		{"type": "foo", "secrets": ["TOKEN", "key.pem"], "network": "bridge:br0", "limits": {"memory": "2G", "cpus": 0.5, "pids": 10, "disk": 8388608}},
		{"type": "foo", "limits": {"memory": "8M"}}, {"type": "foo", "limits": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s := j.Steps
	if !reflect.DeepEqual(s[0].Secrets, []string{"TOKEN", "key.pem"}) || s[0].Network != "bridge:br0" ||
		*s[0].Limits != (ticket.Limits{Memory: 2 << 30, CPUs: 0.5, Processes: 10, Disk: 8 << 20}) {
		t.Errorf("%+v, limits %+v", s[0], s[0].Limits)
	}
	if *s[1].Limits != (ticket.Limits{Memory: 8 << 20}) || s[2].Limits != nil {
		t.Errorf("%+v, %+v", s[1].Limits, s[2].Limits)
	}
}

// TestRefused is what people see. An entry without tasks' braces stands for the
// first task of a job.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{``, `job: not JSON: line 1, column 1: unexpected end of JSON input`},
		{"{\n  \"job_id\": \"ä\"x}", `job: not JSON: line 2, column 16: invalid character 'x' after object key:value pair`},
		{"{\n \"job_id\": \"\xff\"}", `job: not UTF-8: line 2, column 13`},
		{`{"job_id": "a"} {}`, `job: not JSON: line 1, column 17: invalid character '{' after top-level value`},
		{`{"job_id": "a", "job_id": "b"}`, `job: $.job_id: expected the key once, found it twice`},
		{`{"job_id": "a", "triggers": ` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, `job: $.triggers` + strings.Repeat("[0]", 64) + `: expected at most 64 levels, found more`},
		{`[]`, `job: $: expected an object, found an empty list`},
		{`{}`, `job: $.job_id: expected a job name of 1 to 256 letters, digits, "_" and "-", found nothing`},
		{`{"job_id": "a b"}`, `job: $.job_id: expected a job name of 1 to 256 letters, digits, "_" and "-", found "a b"`},
		{`{"job_id": "a", "Job_ID": "a"}`, `job: $.Job_ID: unknown key (known: configuration-version, description, downstream_jobs, env, job_id, parameters, priority, retention, status, tasks, triggers)`},
		{`{"job_id": "a", "env": {"A=B": "", "C": 1, "D": "\u0000"}}`, "job: $.env[\"A=B\"]: expected a variable's name of letters, digits and \"_\"\n" +
			"job: $.env.C: expected a string without NUL, found 1\njob: $.env.D: expected a string without NUL, found \"\\x00\""},
		{`{"job_id": "a", "parameters": ["B"]}`, `job: $.parameters: expected an object of strings, found a list`},
		{`{"job_id": "a", "triggers": "nightly"}`, `job: $.triggers: expected an object that says what starts a build, found "nightly"`},
		{`{"job_id": "a", "triggers": {"cron": "0 3 * * *"}}`, `job: $.triggers.cron: unknown key (known: branches, events, forks, paths, repositories, skip, tags)`},
		{`{"job_id": "a", "triggers": {"events": ["push", "deploy"]}}`, `job: $.triggers.events[1]: expected "push", "tag" or "pull_request", found "deploy"`},
		{`{"job_id": "a", "triggers": {"branches": ["main", "x["]}}`, `job: $.triggers.branches[1]: expected a glob pattern, with "!" before it for what is not meant, found "x["`},
		{`{"job_id": "a", "triggers": {"paths": {"include": ["!"]}}}`, `job: $.triggers.paths.include[0]: expected a glob pattern, with "!" before it for what is not meant, found "!"`},
		{`{"job_id": "a", "status": {"forge": "gitea", "secret": "S"}}`, `job: $.status.url: expected the address of an API, as https://host/api/v1, found nothing`},
		{`{"job_id": "a", "status": {"forge": "github", "secret": "S", "url": "https://u:p@h/"}}`, `job: $.status.url: expected the address of an API, as https://host/api/v1, found "https://u:p@h/"`},
		{`{"job_id": "a", "downstream_jobs": ["b", "../c"]}`, `job: $.downstream_jobs[1]: expected a job name of 1 to 256 letters, digits, "_" and "-", found "../c"`},
		{`{"job_id": "a", "tasks": null}`, `job: $.tasks: expected a list of tasks, or an object of tasks by index, found null`},
		{`{"job_id": "a", "tasks": {"first": {"type": "a"}, "1": {}}}`, "job: $.tasks.first: expected an index from \"0\" to \"999\" as the key\n" +
			`job: $.tasks["1"].type: expected a type of lower-case letters, digits and "-" that a task may have, found nothing`},
		{`true`, `job: $.tasks[0]: expected a task, found true`},
		{`{"type": "Foo"}`, `job: $.tasks[0].type: expected a type of lower-case letters, digits and "-" that a task may have, found "Foo"`},
		{`{"type": "build-control"}`, `job: $.tasks[0].type: expected a type of lower-case letters, digits and "-" that a task may have, found "build-control"`},
		{`{"type": "foo", "timeout": "10"}`, `job: $.tasks[0].timeout: expected an integer from 1 to 31536000, found "10"`},
		{`{"type": "foo", "timeout": 0, "retry": 11, "labels": ["a b"]}`, "job: $.tasks[0].timeout: expected an integer from 1 to 31536000, found 0\n" +
			"job: $.tasks[0].retry: expected an integer from 1 to 10, found 11\n" +
			`job: $.tasks[0].labels[0]: expected a label of 1 to 64 letters, digits, "_", "." and "-", found "a b"`},
		{`{"type": "foo", "timeout": 1.0, "retry": 99999999999999999999}`, "job: $.tasks[0].timeout: expected an integer from 1 to 31536000, found 1.0\n" +
			"job: $.tasks[0].retry: expected an integer from 1 to 10, found 99999999999999999999"},
		{`{"type": "foo", "params": [1], "when": "always"}`, "job: $.tasks[0].params: expected an object, found a list\n" +
			"job: $.tasks[0].when: unknown key (known: env, image, labels, limits, name, network, params, retry, secrets, timeout, type)"},
		{`{"type": "foo", "image": "../x"}`, `job: $.tasks[0].image: expected an image's name of 1 to 64 lower-case letters, digits, ".", "_" and "-" that begins with a letter or digit, found "../x"`},
		{`{"type": "foo", "image": ""}`, `job: $.tasks[0].image: expected an image's name of 1 to 64 lower-case letters, digits, ".", "_" and "-" that begins with a letter or digit, found ""`},
		{`{"type": "foo", "secrets": ["../x"]}`, `job: $.tasks[0].secrets[0]: expected a secret's name of 1 to 64 letters, digits, "_", "." and "-" that begins with a letter, digit or "_", found "../x"`},
		{`{"type": "foo", "secrets": {"A": "value"}}`, `job: $.tasks[0].secrets: expected a list of names of secrets, found an object`},
		{`{"type": "foo", "network": "hots"}`, `job: $.tasks[0].network: expected "none", "bridge", "bridge:NAME" or "host", found "hots"`},
		{`{"type": "foo", "limits": {"memory": "1G ", "cpus": 0.001, "ram": 1}}`, "job: $.tasks[0].limits.memory: expected a number of bytes of at least 8 MiB, or a string of it in M or G, as \"512M\", found \"1G \"\n" +
			"job: $.tasks[0].limits.cpus: expected a number from 0.01 to 1024, found 0.001\n" +
			`job: $.tasks[0].limits.ram: unknown key (known: cpus, disk, memory, pids)`},
		{`{"type": "foo", "limits": {"cpus": 1e400, "disk": 1.5e8}}`, "job: $.tasks[0].limits.cpus: expected a number from 0.01 to 1024, found 1e400\n" +
			`job: $.tasks[0].limits.disk: expected a number of bytes of at least 8 MiB, or a string of it in M or G, as "512M", found 1.5e8`},
		{`{"type": "execute-shell"}`, `job: $.tasks[0].params: expected an object, found nothing`},
		{`{"type": "execute-shell", "params": {"scirpt": "make"}}`, "job: $.tasks[0].params.script: expected a string, or a list of strings, found nothing\n" +
			"job: $.tasks[0].params.scirpt: unknown key (known: nodelabels, script, working_directory)"},
		{`{"type": "execute-shell", "params": {"script": []}}`, `job: $.tasks[0].params.script: expected a string, or a list of strings, found an empty list`},
		{`{"type": "execute-shell", "params": {"script": ["a", 2]}}`, `job: $.tasks[0].params.script[1]: expected a string, found 2`},
		{`{"type": "git-checkout", "params": {"ref": "", "depth": -1, "submodules": "yes"}}`, "job: $.tasks[0].params.repository: expected a string that is not empty, found nothing\n" +
			"job: $.tasks[0].params.ref: expected a string that is not empty, found \"\"\n" +
			"job: $.tasks[0].params.depth: expected an integer from 0 to 1000000000, found -1\n" +
			`job: $.tasks[0].params.submodules: expected true or false, found "yes"`},
		{`{"type": "publish-artifacts", "params": {"artifacts": "*.txt"}}`, `job: $.tasks[0].params.artifacts: expected a list of glob patterns, at least one, found "*.txt"`},
		{`{"type": "copy-artifacts", "params": {"job": "b", "artifacts": ["*"], "build": "latest"}}`, `job: $.tasks[0].params.build: expected a build number, or "last-successful", found "latest"`},
		{`{"type": "copy-artifacts", "params": {"job": "b", "artifacts": ["*"], "build": 0}}`, `job: $.tasks[0].params.build: expected a build number, or "last-successful", found 0`},
		{`{"type": "` + strings.Repeat("Ä", 100) + `"}`, `job: $.tasks[0].type: expected a type of lower-case letters, digits and "-" that a task may have, found "` + strings.Repeat("Ä", 40) + `…"`},
		{`{"job_id": "a", "tasks": [` + strings.Repeat(`{"type": 1},`, 29) + `{"type": 1}]}`, strings.TrimSuffix(func() (s string) {
			for i := range 20 {
				s += fmt.Sprintf("job: $.tasks[%d].type: expected a type of lower-case letters, digits and \"-\" that a task may have, found 1\n", i)
			}
			return s + "job: and 10 problems more\n"
		}(), "\n")},
	} {
		in := c.in
		if strings.HasPrefix(in, `{"type"`) || in == "true" {
			in = `{"job_id": "a", "tasks": [` + in + `]}`
		}
		_, err := Parse([]byte(in))
		if err == nil || err.Error() != c.want || fault.Of(err) != fault.Config {
			t.Errorf("%s\ngives (%s)\n%v\nwant\n%s", in, fault.Of(err), err, c.want)
		}
	}
	if _, err := Parse(make([]byte, MaxSize+1)); err == nil || err.Error() != "job: larger than 1048576 bytes" {
		t.Errorf("too large: %v", err)
	}
}

func TestExamples(t *testing.T) {
	names, err := filepath.Glob("../../examples/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
