package org.palmtop.app;

import android.app.Activity;
import android.app.AlertDialog;
import android.os.Bundle;
import android.view.LayoutInflater;
import android.view.View;
import android.widget.Button;
import android.widget.LinearLayout;
import android.widget.TextView;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Map;
import org.palmtop.app.logic.About;

/** Screen with versions, hashes and licences of the app, its libraries and the packaged model. */
public final class AboutActivity extends Activity {
    private static final int BLOCK_BYTES = 1 << 14;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.about);
        findViewById(R.id.back).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                finish();
            }
        });
        try {
            show(((PalmtopApp) getApplication()).about());
        } catch (IOException error) {
            throw new IllegalStateException(error); // the build packs it
        }
    }

    private void show(About about) {
        ((TextView) findViewById(R.id.versions)).setText(about.text());
        LinearLayout licences = (LinearLayout) findViewById(R.id.licences);
        for (final Map.Entry<String, String> licence : about.licences.entrySet()) {
            View row = LayoutInflater.from(this).inflate(R.layout.item_licence, licences, false);
            ((Button) row).setText(licence.getKey());
            row.setOnClickListener(new View.OnClickListener() {
                @Override
                public void onClick(View view) {
                    showLicence(licence.getKey(), licence.getValue());
                }
            });
            licences.addView(row);
        }
    }

    private void showLicence(String name, String file) {
        new AlertDialog.Builder(this)
                .setTitle(name)
                .setMessage(text("licences/" + file))
                .setPositiveButton(android.R.string.ok, null)
                .show();
    }

    private String text(String asset) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (InputStream stream = getAssets().open(asset)) {
            byte[] block = new byte[BLOCK_BYTES];
            for (int count = stream.read(block); count >= 0; count = stream.read(block)) {
                bytes.write(block, 0, count);
            }
            return bytes.toString("UTF-8");
        } catch (IOException error) {
            throw new IllegalStateException(error); // the build packs it
        }
    }
}
