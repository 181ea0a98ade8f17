package firewalls

import "testing"

// ufw is enabled, changed, reloaded and disabled. Its own drops are its own: what it
// does not forward is dropped there, whoever we admit.
func TestBesideUFW(t *testing.T) {
	beside(t, func(t *testing.T, subject subject) {
		w, s := newWorld(t, subject)
		h := newHouse(t, w.Node, subject.variant)
		does := func(lines ...string) func() {
			return func() {
				for _, line := range lines {
					h.run(line)
				}
			}
		}
		for _, a := range []act{
			{says: "ufw allow, ufw enable",
				do: does("ufw allow 7443/tcp", "ufw allow 32500/tcp", "ufw --force enable"),
				packets: []string{
					"mallory " + allowed + " answered", "mallory " + notSaid + " dropped",
					"alice " + onTheNode + " answered", "mallory " + onTheNode + " dropped",
					"alice " + onThePod + " dropped"}}, // ufw drops what is forwarded
			{says: "ufw route allow", // as docs/troubleshooting.md advises
				do:      does("ufw route allow to 10.244.0.0/16", "ufw route allow to fd00:10:244::/64"),
				packets: judged("mallory "+allowed+" answered", "mallory "+notSaid+" dropped")},
			{says: "ufw deny, ufw reload",
				do:      does("ufw --force delete allow 7443/tcp", "ufw deny 7443/tcp", "ufw reload"),
				packets: judged("mallory "+allowed+" dropped", "mallory "+notSaid+" dropped")},
		} {
			s.after(a)
		}
		s.leave("mallory "+onThePod+" answered", "mallory "+onTheNode+" answered", "mallory "+notSaid+" dropped")
		s.after(act{says: "ufw disable", do: does("ufw --force disable"),
			packets: judged("mallory "+allowed+" answered", "mallory "+notSaid+" answered")})
	}, "ufw")
}
