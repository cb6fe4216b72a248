// SPDX-License-Identifier: Apache-2.0

package suite

import "testing"

// These provoke the crash type of their name; quiet tests between them see that
// the VM after it is fresh.

func TestPANIC(t *testing.T)                           { lkdtm(t) }
func TestPANIC_STOP_IRQOFF(t *testing.T)               { lkdtm(t) }
func TestBUG(t *testing.T)                             { lkdtm(t) }
func TestWARNING(t *testing.T)                         { lkdtm(t) }
func TestWARNING_MESSAGE(t *testing.T)                 { lkdtm(t) }
func TestEXCEPTION(t *testing.T)                       { lkdtm(t) }
func TestEXHAUST_STACK(t *testing.T)                   { lkdtm(t) }
func TestCORRUPT_STACK(t *testing.T)                   { lkdtm(t) }
func TestQuiet1(t *testing.T)                          { quiet(t) }
func TestCORRUPT_STACK_STRONG(t *testing.T)            { lkdtm(t) }
func TestARRAY_BOUNDS(t *testing.T)                    { lkdtm(t) }
func TestFAM_BOUNDS(t *testing.T)                      { lkdtm(t) }
func TestOVERFLOW_SIGNED(t *testing.T)                 { lkdtm(t) }
func TestCORRUPT_LIST_ADD(t *testing.T)                { lkdtm(t) }
func TestCORRUPT_LIST_DEL(t *testing.T)                { lkdtm(t) }
func TestSTACK_GUARD_PAGE_LEADING(t *testing.T)        { lkdtm(t) }
func TestSTACK_GUARD_PAGE_TRAILING(t *testing.T)       { lkdtm(t) }
func TestQuiet2(t *testing.T)                          { quiet(t) }
func TestUNSET_SMEP(t *testing.T)                      { lkdtm(t) }
func TestSLAB_LINEAR_OVERFLOW(t *testing.T)            { lkdtm(t) }
func TestVMALLOC_LINEAR_OVERFLOW(t *testing.T)         { lkdtm(t) }
func TestWRITE_AFTER_FREE(t *testing.T)                { lkdtm(t) }
func TestREAD_AFTER_FREE(t *testing.T)                 { lkdtm(t) }
func TestWRITE_BUDDY_AFTER_FREE(t *testing.T)          { lkdtm(t) }
func TestREAD_BUDDY_AFTER_FREE(t *testing.T)           { lkdtm(t) }
func TestSLAB_FREE_DOUBLE(t *testing.T)                { lkdtm(t) }
func TestQuiet3(t *testing.T)                          { quiet(t) }
func TestSLAB_FREE_CROSS(t *testing.T)                 { lkdtm(t) }
func TestSLAB_FREE_PAGE(t *testing.T)                  { lkdtm(t) }
func TestWRITE_RO(t *testing.T)                        { lkdtm(t) }
func TestWRITE_RO_AFTER_INIT(t *testing.T)             { lkdtm(t) }
func TestWRITE_KERN(t *testing.T)                      { lkdtm(t) }
func TestEXEC_DATA(t *testing.T)                       { lkdtm(t) }
func TestEXEC_STACK(t *testing.T)                      { lkdtm(t) }
func TestEXEC_KMALLOC(t *testing.T)                    { lkdtm(t) }
func TestQuiet4(t *testing.T)                          { quiet(t) }
func TestEXEC_VMALLOC(t *testing.T)                    { lkdtm(t) }
func TestEXEC_RODATA(t *testing.T)                     { lkdtm(t) }
func TestEXEC_USERSPACE(t *testing.T)                  { lkdtm(t) }
func TestEXEC_NULL(t *testing.T)                       { lkdtm(t) }
func TestACCESS_USERSPACE(t *testing.T)                { lkdtm(t) }
func TestACCESS_NULL(t *testing.T)                     { lkdtm(t) }
func TestREFCOUNT_INC_OVERFLOW(t *testing.T)           { lkdtm(t) }
func TestREFCOUNT_ADD_OVERFLOW(t *testing.T)           { lkdtm(t) }
func TestQuiet5(t *testing.T)                          { quiet(t) }
func TestREFCOUNT_INC_NOT_ZERO_OVERFLOW(t *testing.T)  { lkdtm(t) }
func TestREFCOUNT_ADD_NOT_ZERO_OVERFLOW(t *testing.T)  { lkdtm(t) }
func TestREFCOUNT_DEC_ZERO(t *testing.T)               { lkdtm(t) }
func TestREFCOUNT_DEC_NEGATIVE(t *testing.T)           { lkdtm(t) }
func TestREFCOUNT_DEC_AND_TEST_NEGATIVE(t *testing.T)  { lkdtm(t) }
func TestREFCOUNT_SUB_AND_TEST_NEGATIVE(t *testing.T)  { lkdtm(t) }
func TestREFCOUNT_INC_ZERO(t *testing.T)               { lkdtm(t) }
func TestREFCOUNT_ADD_ZERO(t *testing.T)               { lkdtm(t) }
func TestQuiet6(t *testing.T)                          { quiet(t) }
func TestREFCOUNT_INC_SATURATED(t *testing.T)          { lkdtm(t) }
func TestREFCOUNT_DEC_SATURATED(t *testing.T)          { lkdtm(t) }
func TestREFCOUNT_ADD_SATURATED(t *testing.T)          { lkdtm(t) }
func TestREFCOUNT_INC_NOT_ZERO_SATURATED(t *testing.T) { lkdtm(t) }
func TestREFCOUNT_ADD_NOT_ZERO_SATURATED(t *testing.T) { lkdtm(t) }
func TestREFCOUNT_DEC_AND_TEST_SATURATED(t *testing.T) { lkdtm(t) }
func TestREFCOUNT_SUB_AND_TEST_SATURATED(t *testing.T) { lkdtm(t) }
func TestUSERCOPY_SLAB_SIZE_TO(t *testing.T)           { lkdtm(t) }
func TestQuiet7(t *testing.T)                          { quiet(t) }
func TestUSERCOPY_SLAB_SIZE_FROM(t *testing.T)         { lkdtm(t) }
func TestUSERCOPY_SLAB_WHITELIST_TO(t *testing.T)      { lkdtm(t) }
func TestUSERCOPY_SLAB_WHITELIST_FROM(t *testing.T)    { lkdtm(t) }
func TestUSERCOPY_STACK_FRAME_TO(t *testing.T)         { lkdtm(t) }
func TestUSERCOPY_STACK_FRAME_FROM(t *testing.T)       { lkdtm(t) }
func TestUSERCOPY_STACK_BEYOND(t *testing.T)           { lkdtm(t) }
func TestUSERCOPY_VMALLOC(t *testing.T)                { lkdtm(t) }
func TestUSERCOPY_FOLIO(t *testing.T)                  { lkdtm(t) }
func TestQuiet8(t *testing.T)                          { quiet(t) }
func TestUSERCOPY_KERNEL(t *testing.T)                 { lkdtm(t) }
func TestFORTIFY_STR_OBJECT(t *testing.T)              { lkdtm(t) }
func TestFORTIFY_STR_MEMBER(t *testing.T)              { lkdtm(t) }
func TestFORTIFY_MEM_OBJECT(t *testing.T)              { lkdtm(t) }
func TestFORTIFY_MEM_MEMBER(t *testing.T)              { lkdtm(t) }
func TestFORTIFY_STRSCPY(t *testing.T)                 { lkdtm(t) }
func TestCFI_BACKWARD(t *testing.T)                    { lkdtm(t) }
