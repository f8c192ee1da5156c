"""ReBRAC: TD3 with two penalties for leaving the recorded actions, one for the actor, one for the critics."""
