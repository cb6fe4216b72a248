use strict; use warnings;
use Test::More;
pass('first');
subtest 'a group' => sub {
    plan tests => 3;
    ok(1, 'in # group');
    SKIP: { skip 'no device', 1; }
    subtest 'deeper' => sub { ok(1, 'deep'); TODO: { local $TODO = 'later'; ok(0, 'unfinished'); } done_testing; };
};
subtest 'all skipped' => sub { plan skip_all => 'not on this machine'; };
TODO: { local $TODO = 'not yet'; is(1, 2, 'todo fails'); }
TODO: { local $TODO = 'not yet'; is(1, 1, 'todo passes'); }
TODO: { todo_skip 'would crash', 1; }
SKIP: { skip 'two at once', 2; }
ok(1);
diag("a diagnostic\nof two lines"); note("ok 99 - not a result");
done_testing;
