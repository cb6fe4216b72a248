package main

// rules is the table. A function is a helper when it does what any caller asks
// for, with data that the caller is to answer for: whoever calls strlen with a
// bad pointer has the bug. Three sorts of functions are none, also where they
// share a file with helpers: those that run on their own account (workers, soft
// interrupts, callbacks); those that keep a structure of their own (free lists,
// trees, tables, queues), because a structure is found damaged where it is
// walked, long after the damage; and those that interpret data which somebody
// else wrote (parsers, decompressors).
//
// So a rule names files of leaf functions, or the leaf functions of a file.
var rules = []rule{
	// Strings, numbers, sorting, checksums, hashes, bits: no state.
	{files: []string{"lib/string.c", "lib/string_helpers.c", "lib/vsprintf.c", "lib/kasprintf.c", "lib/kstrtox.c", "lib/ctype.c", "lib/hexdump.c", "lib/bitmap.c", "lib/bitmap-str.c", "lib/find_bit.c", "lib/cpumask.c", "lib/nodemask.c", "lib/hweight.c", "lib/checksum.c", "lib/siphash.c", "lib/uuid.c", "lib/bcd.c", "lib/sort.c", "lib/bsearch.c", "lib/ucs2_string.c", "lib/memcat_p.c", "lib/memweight.c", "lib/argv_split.c", "lib/hexdump.c", "lib/xxhash.c", "lib/seq_buf.c", "lib/libcrc32c.c", "lib/crc*.c", "lib/crc/", "lib/math/", "lib/fortify*.c", "lib/random32.c", "lib/dump_stack.c", "lib/nmi_backtrace.c", "lib/bug.c"}},
	// Counting and referring, where the counter is the caller's.
	{files: []string{"lib/refcount.c", "lib/ref_tracker.c", "lib/atomic64.c", "lib/dec_and_lock.c", "lib/rcuref.c", "lib/kobject.c", "lib/kobject_uevent.c", "lib/klist.c"}},
	// Lists and binary trees that are a member of what the caller keeps in them.
	{files: []string{"lib/list_debug.c", "lib/list_sort.c", "lib/rbtree.c", "lib/llist.c"}},
	// Access to devices and to user space.
	{files: []string{"lib/usercopy.c", "lib/strncpy_from_user.c", "lib/strnlen_user.c", "lib/iomap*.c", "lib/iomem_copy.c", "lib/logic_iomem.c", "lib/logic_pio.c", "lib/devres.c", "lib/pci_iomap.c"}},
	{files: []string{"lib/iov_iter.c"}, only: `^_*copy_(?:to|from|page_to|page_from|mc_to)_iter|^copy(?:in|out)(?:_|$)|^_*copy_from_iter|^hash_and_copy|^csum_and_copy|^copy_page_from_iter_atomic$|^zero_iter$|^memcpy_|^(?:copy|memcpy|zero)_(?:to|from)_(?:user_)?iter`,
		why: "the copying itself; the iterator that is walked was set up by somebody else"},
	// Debugging aids.
	{files: []string{"lib/debugobjects.c"}, only: `debug_`, why: "the pools of its objects are its own"},
	{files: []string{"lib/debug_locks.c", "lib/stackdepot.c", "lib/ubsan.c", "lib/fault-inject*.c", "lib/smp_processor_id.c", "lib/stack_hash.c", "lib/cmpxchg*.c"}},
	// Ciphers and hashes.
	{files: []string{"lib/crypto/"}, except: `^mpih?(?:help)?_|mpi_`, why: "big numbers are structures of keys that users made"},
	{files: []string{"arch/*/crypto/*.c", "arch/*/lib/crc*.c", "arch/*/lib/crypto/*.c"}},
	{files: []string{"crypto/*.c"},
		only:   `(?:en|de)?crypt(?:_one|_segment|_inplace|_done|_iv\w*|_bulk)?(?:_\w*ecb\w*|_\w*cbc\w*|_\w*ctr\w*)?$|digest|(?:^|_)(?:update|final|finup|import|export|hash|setkey|setauthsize|reset|seed|generate|transform|compress|block|blocks|compute|verify|sign|keyexpand|expandkey|mul)(?:_|$)|^drbg_|^gf128mul_|_setkey`,
		except: `^sys_|^(?:alg|af_alg|aead_recv|hash_send|hash_recv|skcipher_recv|rng_recv|algif)_|^(?:sock|do)_|cryptd|pcrypt|cryptomgr|mcryptd|algif|_work(?:er)?$|^crypto_(?:user|report|add_alg|del_alg|netlink|larval|alg_|register|unregister|remove|grab|drop|spawn)|^(?:alg|hash|skcipher|rng)_(?:accept|bind|release|check_key)|public_key|pkcs|x509|asymmetric|_callback$|_free$|instance|template`,
		why:    "working on data that callers bring; the socket interface, queues, registration and certificates are no primitives"},
	{files: []string{"crypto/algif_aead.c", "crypto/algif_hash.c", "crypto/algif_rng.c", "crypto/algif_skcipher.c"}, only: `_setkey$|_setauthsize$`, why: "keys go through these to the primitive; the rest is the socket interface"},

	{files: []string{"include/linux/*.h", "include/linux/atomic/*.h", "include/asm-generic/*.h", "include/asm-generic/bitops/*.h", "arch/*/include/asm/*.h"},
		only:   `^_*(?:arch_|raw_|generic_|instrument_|native_|const_)*(?:atomic|cmpxchg|xchg|try_cmpxchg|(?:test|set|clear|change|assign)_\w*bits?|find_\w*bit|(?:bitmap|cpumask|nodemask)_|list_(?:add|del|move|splice|replace|cut|rotate|bulk)|hlist_(?:add|del|move|nulls_(?:add|del)|bl_(?:add|del))|llist_|rb_(?:insert|erase|link|add|first|next|last|prev)|refcount|kref_|kobject_|mem(?:cpy|set|move|cmp|chr|scan|zero)|str\w*(?:cpy|len|cat|cmp|chr|str|scpy|sep|spn)|copy_(?:from|to)|clear_user|(?:get|put)_user(?:$|_fn$|_gcs$)|unsafe_|(?:raw_)?(?:read|write)[bwlq]|in[bwl](?:_p)?$|out[bwl](?:_p)?$|io(?:read|write)(?:8|16|32|64)|seq(?:count|lock|prop)|raw_(?:read|write|spin)|spin_|read_(?:lock|unlock|trylock|seq)|write_(?:lock|unlock|trylock|seq)|mutex_|down_|up_(?:read|write)|rwsem_|local_(?:irq|bh|lock|unlock|add|inc|dec|read|set|xchg|cmpxchg)|preempt_|irqs_disabled|might_|cond_resched|wake_up|k[mzcv]*alloc|kvm?alloc|kmem_cache|kfree|k?vm?alloc|alloc_page|__alloc_page|virt_to|phys_to|pfn_to|phys_addr|virt_addr|kasan_|kcsan_|kmsan_|lockdep_|fortify|array_(?:size|index)|struct_size|size_(?:add|mul)|get_unaligned|put_unaligned|swab|cpu_to|[bl]e(?:16|32|64)_|ref_tracker|netdev_tracker|queue_(?:work|delayed)|mod_delayed_work|flush_work|cancel_work|schedule_(?:work|delayed)|init_completion|wait_for_completion|del_timer|timer_delete|rcu_read_|rcu_lock|srcu_read|call_rcu|skb_put|skb_push|put_device|get_device|dev_(?:err|warn|info)|user_access|uaccess|stac|clac|folio_unlock|folio_lock|unlock_page|lock_page)`,
		except: `^(?:cmpxchg|xchg)_user`,
		why:    "headers hold what is compiled into its callers and stands on a stack only by a compiler's choice; these are the primitives among it"},

	// Memory.
	{files: []string{"mm/slub.c", "mm/slab.c", "mm/slob.c", "mm/slab_common.c", "mm/slab.h"},
		only:   `alloc|^_*kmem_cache|^_*k[vz]*free(?:$|_sensitive|_bulk|_const)|^_*slab_|_*slab_(?:free|alloc|post|pre|err|pad|bug)|^new_slab|^(?:object_err|print_|check_(?:bytes|object|pad|slab)|free_debug|alloc_debug|free_consistency|free_to_partial|on_freelist|init_object|setup_object|init_tracking|set_track|fixup|restore_red|get_track|get_each_object|memcg_slab|cache_free_debug|create_cache)`,
		except: `_show$|_store$|^flush_|_work(?:fn)?$`,
		why:    "allocating and freeing on request; partial slabs and free lists are the allocator's own"},
	{files: []string{"mm/page_alloc.c", "mm/mempolicy.c", "mm/hugetlb.c", "mm/filemap.c"},
		only:   `^_*(?:try_)?alloc_(?:frozen_)?pages?|^_*alloc_(?:pages|frozen)_\w+|^_*folio_alloc|^_*vma_alloc_folio|^_*get_free_pages|^get_zeroed_page|^get_page_from_freelist|^prep_new_page|^post_alloc_hook|^prepare_alloc_pages|^alloc_page_interleave|^_*filemap_(?:alloc|get)_folio|^find_or_create_page|^do_read_cache_(?:folio|page)|^read_cache_(?:folio|page)|^pagecache_get_page|^grab_cache_page`,
		except: `^alloc_pages_bulk_array_\w+_preferred$`,
		why:    "allocating and looking up on request; what is freed is put on lists of the allocator's own"},
	{files: []string{"mm/vmalloc.c", "mm/percpu.c", "mm/nommu.c"}, only: `^_*k?vm?[mzc]?alloc|^_*vmap_pages|^_*get_vm_area|^alloc_vmap_area|^vm_area_alloc_pages|^_*vm_map_ram$|^pcpu_mem_zalloc`, except: `_(?:dump|info)\w*$|^vmalloc_(?:to|init|sync|user_range)`, why: "as in mm/slub.c"},
	{files: []string{"mm/mempool.c", "mm/dmapool.c", "mm/page_frag_cache.c"}, only: `alloc`, except: `_(?:free|exit|destroy)|_show$`, why: "as in mm/slub.c"},
	{files: []string{"mm/util.c"}, only: `^_*k?v?(?:mem|str)n?dup|^_*kstrn?dup|dup_user|^kv?m?alloc|^_*kv[mzc]?alloc|^kvrealloc|^kfree_const|^kvfree|^strndup_user`, why: "copies for a caller"},
	{files: []string{"mm/usercopy.c", "mm/kmemleak.c", "mm/page_owner.c", "mm/page_poison.c", "mm/failslab.c", "mm/fail_page_alloc.c", "mm/debug.c", "mm/debug_page_alloc.c", "mm/kasan/", "mm/kmsan/", "mm/kfence/"}, except: `_show$|_open$|_threshold_[gs]et$|^kasan_test`, why: "checks that the compiler or the allocator inserts; the rest are files of debugfs"},

	// Locks, waiting, printing, tracing.
	{files: []string{"kernel/locking/*.c"}, except: `torture|^lock_stat|^lockdep_stats|_show$|^(?:remove|add)_wait_queue`, why: "tests and files of proc"},
	{files: []string{"kernel/panic.c", "kernel/kcsan/*.c", "kernel/stacktrace.c", "kernel/trace/trace_preemptirq.c"}, except: `_show$|_write$|_open$`, why: "files of debugfs"},
	{files: []string{"kernel/sched/completion.c", "kernel/sched/wait.c", "kernel/sched/wait_bit.c", "kernel/sched/swait.c"}, only: `^_*wake_up|^_*swake_up|^complete|^_*wait_for_|^do_wait_for|^_*finish_|^_*prepare_to_|^out_of_line|^_*wait_on_bit`, why: "a queue is walked, and a waiter woken, where that one was freed"},
	{files: []string{"kernel/printk/*.c"}, only: `printk|^dump_stack|^show_regs_print`, why: "printing on request; consoles and the log's own files are drivers"},
	{files: []string{"kernel/kcov.c"}, only: `sanitizer|^write_comp|^check_kcov_mode|^canonicalize`, why: "calls that the compiler inserts; the rest is a device"},
	{files: []string{"kernel/workqueue.c"}, only: `^_*queue_(?:work|delayed_work|rcu_work)|^_*queue_work_on|^insert_work|^_*flush_(?:work|delayed_work|rcu_work|workqueue)(?:$|_)|^_*cancel_(?:work|delayed_work)|^try_to_grab_pending|^work_grab_pending|^(?:drain|destroy|flush)_workqueue|^_*flush_workqueue|^mod_delayed_work|^schedule_work|^delayed_work_timer_fn$|^wq_barrier|^_*work_is|^_*init_work`, why: "queueing and waiting on request; workers and pools are the queue's own"},
	{files: []string{"kernel/time/timer.c", "kernel/time/hrtimer.c", "kernel/time/sleep_timeout.c"}, only: `^_*(?:try_to_)?del_timer|^_*(?:try_to_)?timer_(?:delete|shutdown)|^schedule_(?:timeout|hrtimeout)|^_*(?:m|u|f)sleep|^usleep|^debug_`, why: "sleeping and deleting on request; a timer that is queued or expires is found damaged there"},
	{files: []string{"kernel/rcu/*.c"}, only: `^_*call_s?rcu|^_*k?v?free_call_rcu|^_*rcu_read_|^rcu_(?:is_watching|lockdep|segcblist_enqueue)|debug_rcu|^add_ptr_to_bulk`, why: "callbacks and grace periods run on their own"},
	{files: []string{"kernel/sched/core.c"}, only: `rq_lock|rq_unlock|^_*schedule(?:$|_)|^_*might_|^_*cond_resched|^preempt_schedule|^context_switch`, why: "the rest of the scheduler works on its own account"},
	{files: []string{"kernel/kthread.c"}, only: `^kthread_(?:stop|flush|queue|cancel|mod|insert)|^_*kthread_(?:queue|cancel)`, why: "as in kernel/workqueue.c"},

	// Devices.
	{files: []string{"drivers/base/core.c", "drivers/base/devres.c", "drivers/base/class.c", "drivers/base/property.c", "drivers/base/map.c", "drivers/base/transport_class.c", "drivers/base/attribute_container.c"},
		except: `uevent|_show$|_store$|_shutdown$|_probe|^device_(?:reorder|link|links)|fw_devlink|_work$|_workfn$|_fn$|^kobj_map|^kobj_lookup|^transport_(?:setup|add|remove|destroy)`,
		why:    "files of sysfs and events are read from user space; probing is about the driver that is probed"},
	{files: []string{"drivers/base/bus.c"}, only: `^bus_for_each|^bus_(?:add|remove)_device|^bus_find|^next_device|^klist_devices`, why: "walking for a caller; drivers are registered and probed on their own account"},
	{files: []string{"drivers/base/power/sysfs.c"}, only: `^dpm_sysfs|^wakeup_sysfs|^pm_qos_sysfs`, why: "making files for a device; reading them is none"},
	{files: []string{"drivers/tty/tty_io.c"}, only: `^tty_(?:un)?register_device`, why: "a part of the device model"},
	{files: []string{"drivers/char/hw_random/core.c"}, only: `^hwrng_unregister$`, why: "it waits for a driver's own callbacks"},
	{files: []string{"drivers/usb/core/urb.c"}, only: `^usb_(?:submit|kill|unlink|poison)_urb|^usb_(?:kill|poison|unlink)_anchored`, why: "sending and cancelling on request; anchors and references belong to drivers"},
	{files: []string{"drivers/usb/core/message.c"}, only: `_msg(?:_send|_recv)?$|^usb_start_wait_urb|^usb_api_blocking|^usb_sg_|^sg_`, why: "the rest of the file configures devices"},
	{files: []string{"drivers/usb/core/hcd.c"}, only: `^usb_hcd_(?:submit|unlink|map|unmap)|^unlink1$`, why: "root hubs are drivers"},
	{files: []string{"drivers/usb/*/*.c", "drivers/usb/gadget/udc/*.c"}, only: `_urb_enqueue$`, why: "a host controller takes what a driver sends"},
	{files: []string{"drivers/i2c/i2c-core-base.c"}, only: `unregister|^i2c_(?:del|add)_|^i2c_new_|^i2c_register_adapter|^_*i2c_(?:transfer|smbus)`, why: "adapters and transfers belong to the driver that asks"},

	// Network.
	{files: []string{"net/core/skbuff.c"}, only: `_panic$|^_*skb_(?:put|push)$|^_*kfree_skb|^kmalloc_reserve|^sock_wmalloc`, why: "what copies a buffer or takes it apart is where buffers are found damaged"},
	{files: []string{"net/core/sock.c"}, only: `^sock_[ok]?[wmk]?z?m?alloc|^sock_k?z?free_s|^_*sock_[ok]m`, why: "the rest are a socket's own operations"},
	{files: []string{"net/core/dev.c"}, only: `^unregister_netdev|^rollback_registered|^netdev_(?:printk|err|warn|info)|^_*dev_kfree`, why: "a device is taken down for the driver that asks; the rest is the network's core itself"},
	{files: []string{"net/core/datagram.c"}, only: `^_*skb_copy_(?:and_csum_)?datagram|^simple_copy`, why: "receive queues are walked on their own"},

	// File systems.
	{files: []string{"fs/inode.c"}, only: `nlink|^iput(?:_final)?$`, why: "a link count and a reference are a file system's"},
	{files: []string{"fs/sysfs/*.c"}, only: `^_*sysfs_remove|^remove_files`, why: "a driver takes its files away; making one that is there already is noticed by sysfs"},
	// A file system's own way to say that something is wrong.
	{files: []string{"fs/xfs/xfs_message.c", "fs/btrfs/messages.c", "fs/reiserfs/prints.c", "fs/gfs2/util.c", "fs/xfs/xfs_error.c", "fs/fat/misc.c", "fs/ext4/super.c", "fs/ext2/super.c", "fs/jfs/super.c", "fs/nilfs2/super.c", "fs/ocfs2/super.c", "fs/f2fs/super.c", "fs/ntfs3/super.c", "fs/ntfs/debug.c", "fs/hfsplus/super.c", "fs/ufs/super.c", "fs/udf/super.c", "fs/ubifs/misc.c"},
		only:   `_error(?:_inode|_file|_report)?$|_(?:panic|abort|warning|msg|printk|err|warn|assert\w*|consist\w*)(?:_i)?$|assfail|assertfail|^_*btrfs_(?:handle|printk)|^_*ext4_(?:error|warning|msg|std|grp)|^xfs_(?:printk|alert|corruption|emerg|crit|err|warn|notice|info)`,
		except: `errortag|_check_\w+_consistency$`,
		why:    "it is called where the error is; injecting errors and reading mount options are none of it"},
}
