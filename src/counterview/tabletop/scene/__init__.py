"""What happens in a synthetic take: room, layout, hands, grasps and actions."""
