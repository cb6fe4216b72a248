use Test::More tests => 6;
ok(1, 'good');
is(2, 3, 'bad');
is_deeply({a=>1},{a=>2}, 'deep');
subtest 'group fails' => sub { plan tests => 2; ok(1,'x'); ok(0,'y'); };
ok(1, "escaped # TODO in name");
