//! Two name servers in a bed, by whose answers one sees which of them is asked.

use crate::{bed::Bed, command::Spawned, machine::SOON};

/// A name server at the address `$0` for which every name has the address `$1`.
const NAME_SERVER: &str = r#"
    use Socket;
    my ($at, $ip) = @ARGV;
    socket(S, PF_INET, SOCK_DGRAM, 0) or die $!;
    bind(S, pack_sockaddr_in(53, inet_aton($at))) or die $!;
    $| = 1; print "listens\n";
    while (my $who = recv(S, my $query, 512, 0)) {
        my $end = index($query, "\0", 12) + 5;
        my $is_a = substr($query, $end - 4, 2) eq "\0\1";
        my $answer = substr($query, 0, 2) . pack("n5", 0x8180, 1, $is_a, 0, 0);
        $answer .= substr($query, 12, $end - 12);
        $answer .= pack("n3Nn", 0xc00c, 1, 1, 0, 4) . inet_aton($ip) if $is_a;
        send(S, $answer, 0, $who);
    }
"#;

/// Serves names at 198.51.100.1 and 198.51.100.2: every name has the address 192.0.2.1, or 192.0.2.2.
pub fn serve(bed: &Bed) -> [Spawned; 2] {
    bed.root_sh("ip address replace 198.51.100.2/24 dev eth0").ok();
    ["1", "2"].map(|it| {
        let (at, ip) = (format!("198.51.100.{it}"), format!("192.0.2.{it}"));
        let mut server = bed.spawn_root(["perl", "-e", NAME_SERVER, &at, &ip]);
        server.wait_line(SOON, |line| line == "listens");
        server
    })
}
