package symbolize
func moduleID(a, b string) string { return "" }
