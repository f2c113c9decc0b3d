"""Jobs on Ray: the connection, what a cluster has, Tune as a supervisor."""
