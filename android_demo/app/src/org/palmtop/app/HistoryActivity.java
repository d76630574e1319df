package org.palmtop.app;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.DialogInterface;
import android.os.Bundle;
import android.view.View;
import android.widget.ListView;
import android.widget.Toast;
import java.util.List;
import org.palmtop.app.logic.History;

/** The chats on this phone: open one, or delete it. */
public final class HistoryActivity extends Activity implements HistoryList.Listener {
    private PalmtopApp app;
    private HistoryList list;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.history);
        app = (PalmtopApp) getApplication();
        list = new HistoryList(this, this);
        ((ListView) findViewById(R.id.chats)).setAdapter(list);
        findViewById(R.id.back).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                finish();
            }
        });
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.screenShown();
        read();
    }

    @Override
    protected void onStop() {
        app.screenHidden();
        super.onStop();
    }

    private void read() {
        app.fileWorker().execute(new Runnable() {
            @Override
            public void run() {
                show(app.history().items());
            }
        });
    }

    private void show(final List<History.Item> items) {
        runOnUiThread(new Runnable() {
            @Override
            public void run() {
                list.show(items);
                findViewById(R.id.none).setVisibility(items.isEmpty() ? View.VISIBLE : View.GONE);
            }
        });
    }

    @Override
    public void onOpen(History.Item item) {
        if (item.isOpen || app.chat().resume(item.id)) {
            finish();
        } else {
            tell(item.isDamaged ? R.string.history_damaged : R.string.history_busy);
        }
    }

    @Override
    public void onDelete(final History.Item item) {
        new AlertDialog.Builder(this)
                .setMessage(R.string.history_delete_ask)
                .setNegativeButton(R.string.do_cancel, null)
                .setPositiveButton(R.string.do_delete, new DialogInterface.OnClickListener() {
                    @Override
                    public void onClick(DialogInterface dialog, int which) {
                        delete(item);
                    }
                })
                .show();
    }

    private void delete(final History.Item item) {
        app.fileWorker().execute(new Runnable() {
            @Override
            public void run() {
                final boolean isGone = app.chat().delete(item.id, app.mediaFolder());
                show(app.history().items());
                if (!isGone) {
                    runOnUiThread(new Runnable() {
                        @Override
                        public void run() {
                            tell(R.string.history_busy);
                        }
                    });
                }
            }
        });
    }

    private void tell(int words) {
        Toast.makeText(this, words, Toast.LENGTH_LONG).show();
    }
}
