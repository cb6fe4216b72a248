use Test::More tests => 4; ok(1,'one'); subtest g => sub { plan tests => 2; ok(1,'in'); BAIL_OUT("no database"); }; ok(1,'never');
