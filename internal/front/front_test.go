package front

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the renderings in testdata anew")

func server(name, address string) Server {
	return Server{Name: name, Address: netip.MustParseAddrPort(address)}
}

// town is a policy with all that a front can carry, and what it cannot.
func town() []Listener {
	return []Listener{
		{Name: "shop_web_443_tcp", Protocol: TCP, Port: 8443, IPv4: true, IPv6: true, Servers: []Server{
			server("n1", "10.0.0.11:30000"), server("n2.example.org", "[2001:db8::12]:30000"),
		}},
		{Name: "shop_web_53_udp", Protocol: UDP, Port: 8053, IPv4: true, Servers: []Server{server("n1", "10.0.0.11:30001")}},
		{Name: "shop_web_53_tcp", Protocol: TCP, Port: 8053, IPv6: true, Servers: []Server{server("n1", "10.0.0.11:30001")}},
		{Name: "shop_web_80_tcp", Protocol: TCP, Port: 8080, IPv4: true},
	}
}

var files = []struct {
	name      string
	listeners []Listener
	write     func(string, string, []Listener) string
	accepts   func(t *testing.T, config string)
}{
	{"nginx.conf", town(), Nginx, nginxAccepts},
	{"nginx-empty.conf", nil, Nginx, nginxAccepts},
	{"haproxy.cfg", town(), HAProxy, haproxyAccepts},
	{"haproxy-empty.cfg", nil, HAProxy, haproxyAccepts},
}

// The files are what they were, and the real programs take them.
func TestFiles(t *testing.T) {
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			got := f.write("shop", "web", f.listeners)
			golden := filepath.Join("testdata", f.name)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			f.accepts(t, got)
		})
	}
}

const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

func nginxAccepts(t *testing.T, config string) {
	t.Helper()
	program := installed(t, "nginx")
	load := ""
	if _, err := os.Stat(nginxModule); err == nil { // Debian's; elsewhere it is built in
		load = "load_module " + nginxModule + ";\n"
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "stream.conf"), config)
	write(t, filepath.Join(dir, "nginx.conf"), load+"pid "+dir+"/pid;\nerror_log "+dir+"/log;\nevents {}\nstream {\ninclude "+dir+"/stream.conf;\n}\n")
	if out, err := exec.Command(program, "-t", "-e", dir+"/log", "-c", filepath.Join(dir, "nginx.conf")).CombinedOutput(); err != nil {
		t.Errorf("nginx: %v\n%s", err, out)
	}
}

func haproxyAccepts(t *testing.T, config string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	write(t, file, config)
	if out, err := exec.Command(installed(t, "haproxy"), "-c", "-f", file).CombinedOutput(); err != nil || strings.Contains(string(out), "WARNING") {
		t.Errorf("haproxy: %v\n%s", err, out)
	}
}

func installed(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	if err != nil {
		t.Skipf("SKIPPED: no %s here, so it was not asked whether it takes our file; apt-get install nginx-core libnginx-mod-stream haproxy", program)
	}
	return path
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every line is one of ours: whatever names and addresses hold, they bring no
// directive, no brace and no line of their own.
var ours = map[string]*regexp.Regexp{
	"nginx": regexp.MustCompile(`^(#[^\n]*|upstream [-a-z0-9_.]+ \{|server \{|\}|` +
		`\tzone [-a-z0-9_.]+ 64k;|\tserver [0-9a-f.:\[\]]+ max_fails=1 fail_timeout=5s; # [-a-z0-9_.]+|` +
		`\tlisten (\[::\]:)?[0-9]+( udp)?;|\tproxy_connect_timeout 2s;|\tproxy_pass [-a-z0-9_.]+;|)$`),
	"haproxy": regexp.MustCompile(`^(#[^\n]*|(frontend|backend) [-a-z0-9_.]+|\tmode tcp|\tbind (0\.0\.0\.0:[0-9]+|\[::\]:[0-9]+ v6only|abns@portreeve-[0-9a-f]+)|` +
		`\ttimeout (client|server|connect) [0-9]+[hs]|\tdefault_backend [-a-z0-9_.]+|\tbalance roundrobin|\toption redispatch 1|\tretries 3|` +
		`\tserver [-a-z0-9_.]+ [0-9a-f.:\[\]]+ check inter 2s fall 2 rise 1|\ttcp-request connection reject|)$`),
}

var nasty = []string{
	"", "a b", "a;", "a}", "a{", "a\nload_module x;", "a\r", "a#b", "a\"", "a'", "$host", "a\\", "a\tb", "a\x00", "ä", "A", "a`id`", "a|b", "a&b", "a@b", "%[env(HOME)]",
	"x;}\nserver{listen 22;proxy_pass 10.0.0.1:22;", "n1 10.0.0.1:22\n\tserver n2", "[::1]", "a/b", "..", strings.Repeat("a", 254),
}

func TestNothingIsInjected(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		if random.IntN(2) == 0 {
			return nasty[random.IntN(len(nasty))]
		}
		return "n" + string(rune('a'+random.IntN(26)))
	}
	address := func() netip.Addr {
		return []netip.Addr{
			netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1").WithZone("eth0;}\nuser root"),
			netip.MustParseAddr("2001:db8::1").WithZone("x y"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("0.0.0.0"), {},
		}[random.IntN(7)]
	}
	for range 3000 {
		var listeners []Listener
		for range random.IntN(3) {
			l := Listener{Name: name(), Protocol: []Protocol{TCP, UDP, "SCTP;"}[random.IntN(3)], Port: uint16(random.IntN(3)), IPv4: random.IntN(2) == 0, IPv6: random.IntN(2) == 0}
			for range random.IntN(3) {
				l.Servers = append(l.Servers, Server{Name: name(), Address: netip.AddrPortFrom(address(), uint16(random.IntN(3)))})
			}
			listeners = append(listeners, l)
		}
		namespace, policy := name(), name()
		for program, file := range map[string]string{"nginx": Nginx(namespace, policy, listeners), "haproxy": HAProxy(namespace, policy, listeners)} {
			for line := range strings.SplitSeq(file, "\n") {
				if !ours[program].MatchString(line) {
					t.Fatalf("%s: line %q of\n%s\nfrom %+v of %q/%q", program, line, file, listeners, namespace, policy)
				}
			}
		}
	}
}
