package main

// rules is the table. A function is a helper when it does what any caller asks
// for, with data that the caller is to answer for: whoever calls strlen with a
// bad pointer has the bug. Functions that run on their own account (workers,
// soft interrupts, callbacks) or walk a structure of their own are none, also
// where they share a file with helpers.
var rules = []rule{
	{files: []string{"lib/*.c", "lib/crypto/", "lib/crc/", "lib/math/", "lib/zlib_*/*.c", "lib/lzo/*.c", "lib/lz4/*.c", "lib/xz/*.c", "lib/842/*.c", "lib/reed_solomon/*.c", "lib/raid6/*.c", "lib/raid/"},
		except: `^timerqueue_|_work(?:er|fn)?$|^iov_iter_|^rht_deferred|^(?:xas|xa|mas|mt|mtree)_`,
		why:    "a timer queue, an iterator and a tree are walked where they were damaged earlier; workers run on their own"},
	{files: []string{"include/linux/*.h", "include/linux/atomic/*.h", "include/asm-generic/*.h", "include/asm-generic/bitops/*.h", "arch/*/include/asm/*.h"},
		only: `^_*(?:arch_|raw_|generic_|instrument_|native_|const_)*(?:atomic|cmpxchg|xchg|try_cmpxchg|(?:test|set|clear|change|assign|find|for)_?\w*bit|bitmap|cpumask|nodemask|list|hlist|llist|rb|refcount|kref|kobject|mem|str|copy_|clear_|get_user|put_user|unsafe_|raw_(?:read|write)|read[bwlq]|write[bwlq]|in[bwl]|out[bwl]|io(?:read|write)|raw_(?:read|write)|seq|spin_|read_|write_|mutex_|down_|up_|rwsem|local_|preempt|irqs_|might|cond_resched|schedule|wait_|wake|complet|init_|timer|hrtimer|work|queue_|flush_|cancel_|rcu_|srcu_|call_|percpu|this_cpu|pcpu|k[mzcv]*alloc|kvm?alloc|kvfree|kmem|kfree|vm?alloc|alloc_|free_|page_|folio_|get_page|put_page|virt_|phys_|pfn_|kasan|kcsan|kmsan|lock|unlock|trace_|fortify|array_|struct_|size_|get_unaligned|put_unaligned|swab|hash|jhash|cpu_to|be|le|i_size|inode_|skb_(?:put|push|pull|put_data|put_zero|copy_(?:from|to)_linear)|ref_tracker|netdev_tracker|get_net|put_net|dev_(?:put|hold)|sk_under|dget|dput|get_device|put_device|usb_(?:get|set)|idr_|ida_|xa_|ktime_|timespec|bit_|sg_)`,
		why:  "headers hold what is compiled into its callers and stands on a stack only by a compiler's choice; these are the primitives among it"},
	{files: []string{"mm/slub.c", "mm/slab_common.c", "mm/page_alloc.c", "mm/vmalloc.c", "mm/percpu*.c", "mm/mempool.c", "mm/dmapool.c", "mm/page_frag_cache.c", "mm/mempolicy.c", "mm/usercopy.c", "mm/maccess.c", "mm/kmemleak.c", "mm/page_owner.c", "mm/page_table_check.c", "mm/page_poison.c", "mm/failslab.c", "mm/fail_page_alloc.c", "mm/debug*.c", "mm/kasan/", "mm/kmsan/", "mm/kfence/"},
		except: `^deactivate_slab$|^__isolate_free_page$|_work$|^(?:do_|kernel_)?(?:mbind|set_mempolicy|get_mempolicy|move_pages|migrate_pages)|mpol|policy|^queue_(?:pages|folios)|^sys_|^compat_sys_|^vread|^vma?lloc_(?:dump|info)|^vmstat|vmap_(?:purge|lazy)|lazy_area|_show$|_store$|^kswapd|^show_|^build_|^drain_|^test_`,
		why:    "flushing and draining work on the allocator's own lists; system calls and files of sysfs and proc are nobody's helpers"},
	{files: []string{"mm/util.c"}, except: `^vm_mmap|mmap|vm_|^account|commit|rlimit|_handler$|^arch_`, why: "what maps memory takes the lock that lockdep names"},
	{files: []string{"kernel/locking/*.c", "kernel/printk/*.c", "kernel/panic.c", "kernel/kcsan/*.c", "kernel/stacktrace.c", "kernel/sched/completion.c", "kernel/sched/swait.c", "kernel/sched/wait.c", "kernel/sched/wait_bit.c", "kernel/kcov.c", "kernel/fail_function.c", "kernel/trace/trace_preemptirq.c"},
		except: `^(?:remove|add)_wait_queue|^(?:devkmsg|kmsg|syslog|do_syslog|check_syslog|console_unlock|console_flush|console_emit)|^kcov_(?:open|close|mmap|ioctl|put|remote|get|disable|task)|_show$|torture`,
		why:    "a wait queue is walked where a waiter was freed; the log's and coverage's files are device drivers"},
	{files: []string{"kernel/workqueue.c"}, except: `^(?:process_|worker_|rescuer|kthread_|show_|print_|wq_|workqueue_|apply_|pwq_|put_pwq|get_pwq|pool_|create_worker|destroy_worker|idle_)|_show$|_store$`, why: "workers run what was queued; pools are their own"},
	{files: []string{"kernel/entry/*.c", "arch/x86/entry/*.c", "arch/arm64/kernel/entry-common.c"}, except: `^vdso|^vsys|_show$`, why: "the vDSO is mapped by drivers of its own"},
	{files: []string{"kernel/time/timer.c", "kernel/time/hrtimer.c", "kernel/time/sleep_timeout.c"},
		only: `^_*(?:add|mod|del|try_to_del)_timer|^_*timer_(?:delete|shutdown|reduce|init|setup)|^(?:init|do_init|setup|debug)_timer|^detach_|^enqueue_timer|^internal_add|^lock_timer_base|^schedule_|^(?:m|u|f)sleep|^usleep|^hrtimer_(?:start|cancel|try|init|setup|forward|active|get)|^_*hrtimer_(?:start|init|setup)|^(?:remove|enqueue)_hrtimer|^debug_`,
		why:  "expiry runs on its own"},
	{files: []string{"kernel/rcu/*.c"}, only: `^_*call_s?rcu|^k[v]?free_call_rcu|^kvfree_call|^_*call_rcu|^rcu_read_|^_*rcu_read_|^rcu_(?:is_watching|lockdep|segcblist_enqueue|barrier_func)|debug_rcu|^wakeme_after|^add_ptr_to_bulk`, why: "callbacks and grace periods run on their own"},
	{files: []string{"kernel/sched/core.c"}, only: `rq_lock|rq_unlock|^_*schedule(?:$|_)|^_*might_|^_*cond_resched|^try_to_wake|^wake_up_(?:process|state|q)|^default_wake|^ttwu_|^set_cpus_allowed|^preempt_schedule|^context_switch|^set_user_nice`, why: "the rest of the scheduler works on its own account"},

	{files: []string{"drivers/base/core.c", "drivers/base/devres.c", "drivers/base/bus.c", "drivers/base/class.c", "drivers/base/property.c", "drivers/base/map.c", "drivers/base/power/sysfs.c", "drivers/base/transport_class.c", "drivers/base/attribute_container.c"},
		except: `uevent|_show$|_store$|_shutdown$|_probe|^device_(?:reorder|link|links)|fw_devlink|^bus_(?:probe|remove|rescan|reprobe)|_work$|_workfn$|_fn$|^kobj_map|^kobj_lookup|^transport_(?:setup|add|remove|destroy)`,
		why:    "files of sysfs and events are read from user space; probing is about the driver that is probed"},
	{files: []string{"drivers/usb/core/urb.c"}},
	{files: []string{"drivers/usb/core/message.c"}, only: `_msg(?:_send|_recv)?$|^usb_start_wait_urb|^usb_api_blocking|^usb_sg_|^sg_`, why: "the rest of the file configures devices"},
	{files: []string{"drivers/usb/core/hcd.c"}, only: `^usb_hcd_(?:submit|unlink|giveback|link|check|flush|map|unmap)|^unlink1$`, why: "root hubs are drivers"},
	{files: []string{"drivers/usb/core/usb.c"}, only: `^usb_(?:alloc|free)_coherent|^usb_(?:get|put)_(?:dev|intf)$|^usb_lock_device`, why: "the rest of the file finds and makes devices"},
	{files: []string{"drivers/i2c/i2c-core-base.c"}, only: `unregister|^i2c_(?:del|add)_|^i2c_new_|^i2c_register_adapter|^_*i2c_(?:transfer|smbus)`, why: "adapters and transfers belong to the driver that asks"},

	{files: []string{"net/core/skbuff.c"},
		only: `_panic$|^skb_(?:put|push|pull|trim)$|^_*skb_(?:put|push|pull|trim)(?:_|$)|^kmalloc_reserve|^_*(?:netdev|napi)_alloc|^skb_free_frag`,
		why:  "what copies a buffer, takes it apart or drops it is where buffers are found damaged"},
	{files: []string{"net/core/sock.c"}, only: `lock_sock|release_sock|^sock_[ok]z?m?alloc|^sock_[ok]z?free|^_*sock_[okw]m|^sock_(?:wmalloc|kmalloc|kfree|kzfree|omalloc)|^sock_alloc_send`, why: "the rest are a socket's own operations"},
	{files: []string{"net/core/dev.c"}, only: `^dev_(?:put|hold|kfree_skb)|^netdev_(?:printk|err|warn|info)|^_*dev_kfree`, why: "the rest is the network's core itself"},
	{files: []string{"net/core/utils.c", "net/core/ref*.c", "net/core/datagram.c"}, only: `^_*skb_copy_(?:and_csum_)?datagram|^copy_|^simple_copy|^csum_|^inet_proto_csum|^skb_copy_datagram`, why: "receive queues are walked on their own"},
	{files: []string{"net/netlink/af_netlink.c"}, only: `^netlink_(?:tap|deliver_tap)`, why: "the rest is the protocol itself"},

	{files: []string{"crypto/*.c"}, except: `^sys_|^(?:alg|af_alg|aead_recv|hash_send|hash_recv|skcipher_recv|rng_recv|algif)|^(?:sock|do)_|cryptd|pcrypt|cryptomgr|_work(?:er)?$|^crypto_(?:user|report|add_alg|del_alg|get_default|netlink|larval|alg_)|^crypto_kfunc|mcryptd|^crypto_(?:unregister|register|remove)`,
		why: "ciphers and hashes get their data from callers; the socket interface, queues and registration are no primitives"},
	{files: []string{"arch/*/crypto/*.c"}},
	{files: []string{"crypto/af_alg.c", "crypto/pcrypt.c", "crypto/cryptd.c", "crypto/testmgr.c", "crypto/crypto_user.c", "crypto/algboss.c", "crypto/fips.c", "crypto/algapi.c", "crypto/api.c"}, only: `^crypto_(?:xor|inc|alloc_tfm|create_tfm|destroy_tfm|alloc_base|exit_ops|shoot_alg)`, why: "these manage algorithms"},
	{files: []string{"crypto/algif_aead.c", "crypto/algif_hash.c", "crypto/algif_rng.c", "crypto/algif_skcipher.c"}, only: `_setkey$|_setauthsize$`, why: "keys go through these to the primitive; the rest is the socket interface"},

	{files: []string{"fs/inode.c"}, only: `nlink|^iput(?:_final)?$|^ihold$|^_*i_size|^inode_(?:lock|unlock|add_bytes|sub_bytes)`, why: "a link count is its file system's"},
	{files: []string{"fs/stat.c"}, only: `^_*inode_(?:add|sub|get|set)_bytes`, why: "a count of blocks is its file system's"},
	{files: []string{"fs/sysfs/*.c"}, only: `^_*sysfs_(?:create|remove|add|merge|unmerge|update|delete|notify|rename|link|unlink|do_create|warn|break|unbreak|group)|^internal_create_group|^create_files|^remove_files`, why: "reading and writing runs an attribute's own code"},
	{files: []string{"fs/proc/generic.c"}, only: `^_*proc_(?:create|mkdir|symlink|register|remove)|^_*remove_proc|pde_`, why: "the rest serves system calls"},
	{files: []string{"fs/debugfs/inode.c"}, only: `^_*debugfs_create`, why: "removal walks what others left"},
	// A file system's own way to say that something is wrong.
	{files: []string{"fs/xfs/xfs_message.c", "fs/btrfs/messages.c", "fs/reiserfs/prints.c", "fs/gfs2/util.c", "fs/xfs/xfs_error.c", "fs/fat/misc.c", "fs/ext4/super.c", "fs/ext2/super.c", "fs/jfs/super.c", "fs/nilfs2/super.c", "fs/ocfs2/super.c", "fs/f2fs/super.c", "fs/ntfs3/super.c", "fs/ntfs/debug.c", "fs/hfsplus/super.c", "fs/ufs/super.c", "fs/udf/super.c", "fs/ubifs/misc.c"},
		only: `_error(?:_inode|_file|_report)?$|_(?:panic|abort|warning|msg|printk|err|warn|assert\w*|consist\w*)(?:_i)?$|assfail|assertfail|^_*btrfs_(?:handle|printk)|^_*ext4_(?:error|warning|msg|std|grp)|^xfs_(?:printk|alert|corruption|emerg|crit|err|warn|notice|info)`,
		why:  "it is called where the error is"},
}
