package org.palmtop.app;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.DialogInterface;
import java.util.ArrayList;
import java.util.List;

/** A list of things to do, one of which is chosen. (Debian's android.jar has not all of PopupMenu.) */
final class Choice implements DialogInterface.OnClickListener {
    private final Activity screen;
    private final List<String> words = new ArrayList<String>();
    private final List<Runnable> actions = new ArrayList<Runnable>();

    Choice(Activity screen) {
        this.screen = screen;
    }

    Choice add(String name, Runnable action) {
        words.add(name);
        actions.add(action);
        return this;
    }

    Choice add(int name, Runnable action) {
        return add(screen.getString(name), action);
    }

    boolean isEmpty() {
        return actions.isEmpty();
    }

    /** @param title a string's id, or 0 for none. */
    void show(int title) {
        AlertDialog.Builder dialog = new AlertDialog.Builder(screen);
        if (title != 0) {
            dialog.setTitle(title);
        }
        dialog.setItems(words.toArray(new String[0]), this).show();
    }

    @Override
    public void onClick(DialogInterface dialog, int which) {
        actions.get(which).run();
    }
}
